"""Keeps calls away from a service that fails, and lets one through now and then to see whether it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from embedstream.logs import get_logger

__all__ = ["Breaker"]

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0

_log = get_logger("cache")


class Breaker:
    """Open after a failure: one call is let through after each pause, and pauses grow. For any thread."""

    def __init__(self, operation: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Closed: calls are let through.

        Args:
            operation: What the calls do, as the log names it.
            clock: Tells seconds.
        """
        self._operation = operation
        self._clock = clock
        self._lock = threading.Lock()
        self._is_open = False
        self._pause = FIRST_PAUSE_SECONDS
        self._until = 0.0

    def allows(self) -> bool:
        """Whether a call may be made now."""
        with self._lock:
            if not self._is_open:
                return True
            now = self._clock()
            if now < self._until:
                return False
            # This call is the trial: the next one is after a longer pause, unless it succeeds.
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._until = now + self._pause
            return True

    def failed(self, why: str) -> None:
        """Takes note of a call that failed; the first is logged, and those under way with it say no more."""
        with self._lock:
            is_new = not self._is_open
            if is_new:
                self._is_open = True
                self._pause = FIRST_PAUSE_SECONDS
                self._until = self._clock() + self._pause
        if is_new:
            _log.warning("cache_fails", operation=self._operation, why=why)

    def succeeded(self) -> None:
        """Takes note of a call that did not; the first after failures is logged."""
        with self._lock:
            is_new = self._is_open
            self._is_open = False
        if is_new:
            _log.info("cache_works_again", operation=self._operation)
