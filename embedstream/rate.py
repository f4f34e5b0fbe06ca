"""Holds a run to so many bytes a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["RateLimit"]

# What may be made up for after a pause: a broker that was slow for an hour is not flooded afterwards.
_BURST_SECONDS = 1.0
_NAP_SECONDS = 0.1


class RateLimit:
    """Waits until a running total may have grown as large as it has."""

    def __init__(
        self,
        bytes_per_second: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin now.

        Args:
            bytes_per_second: The most; None for no limit.
            clock: Seconds that never go back.
            sleep: Waits for some seconds.
        """
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._due = clock()
        self._total = 0

    @property
    def burst(self) -> float:
        """Bytes that may come at once; infinite without a limit."""
        return math.inf if self._rate is None else self._rate * _BURST_SECONDS

    def wait(self, total: int, stopped: Callable[[], bool]) -> None:
        """Wait until `total` bytes since the begin are not too many.

        Args:
            total: Of all that was sent so far.
            stopped: Asked every tenth of a second whether waiting has become pointless.
        """
        while (left := self.seconds_left(total)) > 0 and not stopped():
            self._sleep(min(left, _NAP_SECONDS))

    def seconds_left(self, total: int) -> float:
        """Return how long until `total` bytes since the begin are not too many; 0 for now."""
        if self._rate is None:
            return 0.0
        self._due = max(self._due, self._clock() - _BURST_SECONDS) + (total - self._total) / self._rate
        self._total = total
        return max(0.0, self._due - self._clock())
