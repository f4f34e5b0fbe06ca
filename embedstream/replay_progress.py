"""How far a replay is: the share of the bytes that were there at its start, and the time that the rest takes.

The offsets of the group count, whichever daemon commits them. Records differ in size by a factor of hundreds,
so a sample of the topic says how many bytes lie where.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedstream.errors import EmbedstreamError
from embedstream.logs import get_logger
from embedstream.offsets import GroupOffsets
from embedstream.replay_start import Start
from embedstream.settings import KafkaSettings
from embedstream.topic_sample import Stretch, bytes_before, sample_topic

__all__ = ["Pace", "Progress", "tell_progress"]

TELL_SECONDS = 10.0
# The time left follows a daemon that joins or dies within so many looks.
_LOOKS = 30

_log = get_logger("replay")


@dataclass(frozen=True)
class Progress:
    """How far a replay was at one look.

    Attributes:
        records: Offsets before the group's.
        records_total: Offsets that there were at the start.
        share: Of the bytes, from 0 to 1.
        records_per_second: Over the last looks; None at the first.
        seconds_left: As long as the last looks would take for the rest; None while nothing moves.
    """

    records: int
    records_total: int
    share: float
    records_per_second: float | None
    seconds_left: float | None

    @property
    def is_done(self) -> bool:
        """Whether everything that there was at the start is committed."""
        return self.records >= self.records_total


class Pace:
    """Turns the offsets that a group has committed into progress."""

    def __init__(self, start: Start, stretches: Sequence[Stretch]) -> None:
        """Begin.

        Args:
            start: Where the replay began, or goes on, and how far the topic goes.
            stretches: A sample of it.
        """
        self._start = start
        self._stretches = stretches
        self._total = bytes_before(stretches, start.ends)
        self._looks: deque[tuple[float, int, float]] = deque(maxlen=_LOOKS)

    def look(self, committed: Mapping[int, int], now: float) -> Progress:
        """Return how far it is.

        Args:
            committed: The group's offset of each partition that has one.
            now: Seconds that never go back.
        """
        begin, ends = self._start.begin, self._start.ends
        records = sum(
            max(0, min(committed.get(each, first), ends[each]) - first) for each, first in begin.items()
        )
        done = bytes_before(self._stretches, {each: committed.get(each, begin[each]) for each in begin})
        self._looks.append((now, records, done))
        then, records_then, done_then = self._looks[0]
        seconds = now - then
        left = None
        if done > done_then and seconds > 0:
            left = (self._total - done) * seconds / (done - done_then)
        return Progress(
            records=records,
            records_total=self._start.records,
            share=done / self._total if self._total else 1.0,
            records_per_second=(records - records_then) / seconds if seconds > 0 else None,
            seconds_left=left,
        )


def tell_progress(kafka: KafkaSettings, group: str, start: Start, seconds: float = TELL_SECONDS) -> None:
    """Log how far the replay is every now and then, in a thread of its own, until it has caught up."""
    work = threading.Thread(target=_tell, args=(kafka, group, start, seconds), name="progress", daemon=True)
    work.start()


def _tell(kafka: KafkaSettings, group: str, start: Start, seconds: float) -> None:
    pace: Pace | None = None
    with GroupOffsets(kafka, group) as offsets:
        while True:
            try:
                pace = pace or Pace(start, sample_topic(kafka, start.begin, start.ends))
                found = offsets.read(kafka.documents_topic, start.begin)
            except EmbedstreamError as error:
                # It is the daemon that says what ends it; this only watches.
                _log.warning("replay_progress_unknown", error=str(error))
                time.sleep(seconds)
                continue
            progress = pace.look({each: at.offset for each, at in found.items()}, time.monotonic())
            if progress.is_done:
                _log.info("replay_caught_up", records=progress.records)
                return
            _log.info(
                "replay_progress",
                records=progress.records,
                records_total=progress.records_total,
                percent=round(100 * progress.share, 1),
                records_per_second=_rounded(progress.records_per_second, 1),
                seconds_left=_rounded(progress.seconds_left, 0),
            )
            time.sleep(seconds)


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)
