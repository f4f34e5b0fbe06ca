"""The version that a document gets: when it was read."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Versions"]


class Versions:
    """Gives versions, in milliseconds since the epoch, that rise for every single document.

    Two documents of one id are two versions of one document, so they must not get the same. Only the ids of
    the current millisecond are remembered: where one comes again within it, the next millisecond is waited
    for. (A number that runs ahead of the clock instead would let the next run's versions be the lower ones.)
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        # The wall clock may be set back during a run; the distance from its start can't.
        self._start_ns = wall_ns() - time.monotonic_ns()
        self._now = 0
        self._given: set[str] = set()

    def next(self, document_id: str, above: int = 0) -> int:
        """Return a version above every one that this document had.

        Args:
            document_id: The document.
            above: The last version that it had in an earlier run: the clock may have been set back since.
        """
        self._advance()
        while document_id in self._given:
            time.sleep(0.0002)
            self._advance()
        self._given.add(document_id)
        return max(self._now, above + 1)

    def _advance(self) -> None:
        now = (self._start_ns + time.monotonic_ns()) // 1_000_000
        if now > self._now:
            self._now = now
            self._given.clear()
