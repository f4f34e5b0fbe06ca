"""How far a run is: a bar on a terminal, structured log lines otherwise.

    with Progress(shown=True, measure=lambda: sizes) as progress:
        progress.read(4096)
        progress.document()

Nothing is shown more often than a person or a log can use.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from embedstream.logs import get_logger

__all__ = ["Progress"]

_BAR_SECONDS = 0.25
_LOG_SECONDS = 10.0
# The corpus is walked a second time to know how much is left, which slows the run's own walk down: not where
# that is short, or where it finds next to nothing to read.
_MEASURE_AFTER_SECONDS = 3.0
_MEASURE_AFTER_BYTES = 16_000_000

_log = get_logger("producer")


class Progress:
    """Counts what is read, and shows it every now and then; a context manager.

    Attributes:
        documents: How many documents were read.
        bytes_read: How much was taken from the disk; compressed files count as they lie there.
    """

    def __init__(self, *, shown: bool, measure: Callable[[], Iterable[int]]) -> None:
        """Start counting.

        Args:
            shown: Whether anything is to be seen at all.
            measure: Yields the sizes of all files; read in a thread of its own, where there is much to read,
                since until it has ended nobody knows how much is left.
        """
        self.documents = 0
        self.bytes_read = 0
        self._skipped = 0
        self._started = time.monotonic()
        self._interval = float("inf")
        self._total: int | None = None
        self._measure = measure
        self._measures = False
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._ended = threading.Event()
        if shown:
            self._interval = _BAR_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
        self._next = self._started + self._interval

    def __enter__(self) -> Self:
        if self._interval == _BAR_SECONDS:
            self._bar = Bar(
                TextColumn("{task.fields[told]}"),
                BarColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, told="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()

    @property
    def total(self) -> int | None:
        """Bytes of all files; None until they are added up."""
        return self._total

    def read(self, count: int) -> None:
        """Count bytes taken from the disk."""
        self.bytes_read += count
        if not self._measures and self._is_worth_measuring():
            self._measures = True
            threading.Thread(target=self._add_up, name="measure", daemon=True).start()
        self.show()

    def document(self, count: int = 1) -> None:
        """Count documents."""
        self.documents += count

    def skipped(self, total: int) -> None:
        """Note how many bytes of files need not be read, in all."""
        self._skipped = total
        self.show()

    def show(self) -> None:
        """Show how far the run is, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        seconds = now - self._started
        rate = self.bytes_read / seconds / 1e6
        if self._bar is not None and self._task is not None:
            told = (
                f"{self.documents:,} documents  {self.documents / seconds:,.0f}/s"
                f"  {self.bytes_read / 1e6:,.0f} MB  {rate:,.1f} MB/s"
            )
            self._bar.update(
                self._task, completed=self.bytes_read + self._skipped, total=self._total, told=told
            )
            return
        left = None
        if self._total is not None and rate > 0:
            left = round(max(0, self._total - self._skipped - self.bytes_read) / 1e6 / rate)
        _log.info(
            "produce_progress",
            documents=self.documents,
            megabytes=round(self.bytes_read / 1e6, 1),
            megabytes_per_second=round(rate, 1),
            documents_per_second=round(self.documents / seconds, 1),
            seconds_left=left,
        )

    def _is_worth_measuring(self) -> bool:
        is_shown = self._interval < float("inf")
        reads = self.bytes_read > min(_MEASURE_AFTER_BYTES, self._skipped // 10)
        return is_shown and reads and time.monotonic() > self._started + _MEASURE_AFTER_SECONDS

    def _add_up(self) -> None:
        total = 0
        try:
            for size in self._measure():
                total += size
                if self._ended.is_set():
                    return
        except OSError:
            return  # a file that has gone meanwhile: the time left stays unknown
        self._total = total
