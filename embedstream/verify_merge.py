"""The pure part of `verify`: one input partition merged with what came of it.

    tally = Tally()
    merge = PartitionMerge("documents/0", records, dead, first=0, committed=2, end=lambda: 2, tally=tally)
    merge.passage(0, index=0, count=2)
    merge.passage(0, index=1, count=2)
    merge.finish()

The input's records and its dead letters are pulled as the embeddings go forward; each of the three is in the
order of the input's offsets, so one record is looked at at a time. Those that the embeddings have passed by
without being complete are remembered, for what comes too late, up to `MAX_INCOMPLETE`: memory does not grow
with the topics. Beyond that many, what comes too late counts as double instead of out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

__all__ = ["MAX_INCOMPLETE", "MAX_LISTED", "Finding", "InputRecord", "Kind", "PartitionMerge", "Tally"]

MAX_LISTED = 20
MAX_INCOMPLETE = 1000
# A passage has at least one character, and a segment at most a million bytes.
MAX_PASSAGES = 1 << 20
_NAMED_PASSAGES = 5


class Kind(StrEnum):
    """What can be wrong with an input record."""

    MISSING = "missing"
    """It has neither all its passages nor a dead letter (for a deletion: it was not passed on)."""
    DOUBLE = "double"
    """A passage, dead letter or deletion of it is there again, or passages beside a dead letter."""
    OUT_OF_ORDER = "out_of_order"
    """A passage, dead letter or deletion of it comes after that of a later one."""
    UNEXPECTED = "unexpected"
    """Output that names no input record, or that its input can't have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        position: TOPIC/PARTITION/OFFSET of the input record; of the output record where it names no input.
    """

    kind: Kind
    position: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Counts everything and keeps the first `MAX_LISTED` findings of each kind.

    Attributes:
        records: Input records before the committed offsets.
        embeddings: Passages of those records, each counted once.
        dead_letters: Those records that have a dead letter.
        deletions: Those records that are deletions and were passed on.
        ahead: Output of records that were committed since the check began.
        expired: Output of records that the input topic has dropped.
        unread: Offsets that the input topic has dropped and no output names.
    """

    records: int = 0
    embeddings: int = 0
    dead_letters: int = 0
    deletions: int = 0
    ahead: int = 0
    expired: int = 0
    unread: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    listed: dict[Kind, list[Finding]] = field(default_factory=lambda: {kind: [] for kind in Kind})

    def add(self, kind: Kind, position: str, detail: str, count: int = 1) -> None:
        """Count a finding, which may stand for several records."""
        self.counts[kind] += count
        if len(self.listed[kind]) < MAX_LISTED:
            self.listed[kind].append(Finding(kind, position, detail))


class InputRecord(NamedTuple):
    """A record of the input: all that is asked of it."""

    offset: int
    is_deletion: bool


@dataclass(slots=True)
class _Fate:
    """What has come of an input record so far; a deletion has one part, as if it had one passage.

    `seen` has bit i set for passage i of `count` (0: none has said how many there are).
    """

    offset: int
    is_deletion: bool
    count: int = 0
    seen: int = 0
    is_dead: bool = False

    @property
    def is_complete(self) -> bool:
        return self.is_dead or (self.count > 0 and self.seen == (1 << self.count) - 1)


class PartitionMerge:
    """Merges the records, embeddings and dead letters of one input partition."""

    def __init__(
        self,
        name: str,
        records: Iterable[InputRecord],
        dead_letters: Iterable[int],
        *,
        first: int,
        committed: int,
        end: Callable[[], int],
        tally: Tally,
    ) -> None:
        """Begin.

        Args:
            name: TOPIC/PARTITION of the input, for the findings.
            records: The input's records from `first` to before `committed`, by offset.
            dead_letters: The offsets that the dead letters of this partition name, as they lie in the log.
            first: The oldest offset that the input still holds.
            committed: The offset before which every record must have an outcome.
            end: Tells where the input ends by now.
            tally: Takes the counts and findings.
        """
        self._name = name
        self._records = iter(records)
        self._first = first
        self._committed = committed
        self._end_now = end
        self._end = committed
        self._tally = tally
        self._current: _Fate | None = None
        self._last_closed = -1
        self._is_exhausted = False
        self._incomplete: dict[int, _Fate] = {}
        # The latest expired offset of passages and deletions, and of dead letters.
        self._latest_expired = [-1, -1]
        self._unread = first
        self._dead_letters = self._within(dead_letters)
        self._dead_letter: int | None = None
        self._dead_letters_begun = False

    def passage(self, offset: int, *, index: int, count: int) -> None:
        """Take the next embedding record of this input partition.

        Args:
            offset: The input record that it names.
            index: The passage's number in that record.
            count: How many passages it says that the record has.
        """
        self._take(offset, index, count, is_deletion=False)

    def deletion(self, offset: int) -> None:
        """Take the next passed-on deletion of this input partition."""
        self._take(offset, 0, 1, is_deletion=True)

    def finish(self) -> None:
        """Say what is missing, once all output was taken."""
        while not self._is_exhausted:
            self._next_record()
        for fate in self._incomplete.values():
            self._miss(fate)
        self._incomplete.clear()
        self._tally.unread += self._unread

    def _take(self, offset: int, index: int, count: int, *, is_deletion: bool) -> None:
        if not self._is_within(offset, 0):
            return
        while not self._is_exhausted and (self._current is None or self._current.offset < offset):
            self._next_record()
        fate = self._fate(offset, "a deletion" if is_deletion else f"passage {index} of {count}")
        if fate is None:
            return
        if fate.is_deletion != is_deletion:
            was = "a deletion" if fate.is_deletion else "no deletion"
            self._add(Kind.UNEXPECTED, offset, f"{'a deletion' if is_deletion else 'a passage'} of {was}")
        elif not 0 <= index < count <= MAX_PASSAGES:
            self._add(Kind.UNEXPECTED, offset, f"passage {index} of {count}")
        elif fate.count not in (0, count):
            self._add(Kind.UNEXPECTED, offset, f"passage {index} of {count} beside others of {fate.count}")
        else:
            self._place(fate, index, count)

    def _place(self, fate: _Fate, index: int, count: int) -> None:
        fate.count = count
        what = "the deletion" if fate.is_deletion else f"passage {index} of {count}"
        bit = 1 << index
        if fate.is_dead:
            return self._add(Kind.DOUBLE, fate.offset, f"{what} is there beside a dead letter")
        if fate.seen & bit:
            return self._add(Kind.DOUBLE, fate.offset, f"{what} is there again")
        # `bit` is not in `seen`, so a greater `seen` holds a later passage.
        if fate is not self._current or fate.seen > bit:
            self._add(Kind.OUT_OF_ORDER, fate.offset, f"{what} comes after a later one")
        fate.seen |= bit
        if fate.is_deletion:
            self._tally.deletions += 1
        else:
            self._tally.embeddings += 1
        return self._forget_if_complete(fate)

    def _fate(self, offset: int, what: str) -> _Fate | None:
        """Return the record that output names, unless it is no record or was complete and passed by."""
        if self._current is not None and self._current.offset == offset:
            return self._current
        fate = self._incomplete.get(offset)
        if fate is None and offset > self._last_closed:
            self._add(Kind.UNEXPECTED, offset, f"{what}: the input has no record at this offset")
        elif fate is None:
            self._add(Kind.DOUBLE, offset, f"{what} is there again, after later records")
        return fate

    def _next_record(self) -> None:
        if self._current is not None:
            self._close(self._current)
        record = next(self._records, None)
        if record is None:
            self._is_exhausted = True
            self._current = None
            self._take_dead_letters(self._committed)
            return
        self._tally.records += 1
        self._current = _Fate(record.offset, record.is_deletion)
        self._take_dead_letters(record.offset)

    def _close(self, fate: _Fate) -> None:
        self._last_closed = fate.offset
        if fate.is_complete:
            return
        self._incomplete[fate.offset] = fate
        if len(self._incomplete) > MAX_INCOMPLETE:
            self._miss(self._incomplete.pop(next(iter(self._incomplete))))

    def _take_dead_letters(self, up_to: int) -> None:
        """Take the dead letters up to and with an input offset, as they lie in the log."""
        if not self._dead_letters_begun:
            self._dead_letters_begun = True
            self._dead_letter = next(self._dead_letters, None)
        while self._dead_letter is not None and self._dead_letter <= up_to:
            fate = self._fate(self._dead_letter, "a dead letter")
            if fate is not None:
                self._bury(fate)
            self._dead_letter = next(self._dead_letters, None)

    def _bury(self, fate: _Fate) -> None:
        if fate.is_dead:
            return self._add(Kind.DOUBLE, fate.offset, "a second dead letter")
        if fate.seen:
            self._add(Kind.DOUBLE, fate.offset, "a dead letter beside passages")
        elif fate is not self._current:
            self._add(Kind.OUT_OF_ORDER, fate.offset, "a dead letter after that of a later record")
        fate.is_dead = True
        self._tally.dead_letters += 1
        return self._forget_if_complete(fate)

    def _forget_if_complete(self, fate: _Fate) -> None:
        if fate is not self._current and fate.is_complete:
            del self._incomplete[fate.offset]

    def _within(self, offsets: Iterable[int]) -> Iterator[int]:
        return (offset for offset in offsets if self._is_within(offset, 1))

    def _is_within(self, offset: int, stream: int) -> bool:
        """Whether an offset is one that is checked; counts those that are not."""
        if offset < self._first:
            self._tally.expired += 1
            if offset > self._latest_expired[stream]:
                self._latest_expired[stream] = offset
                self._unread -= 1
            return False
        if offset < self._committed:
            return True
        if offset >= self._end:
            self._end = max(self._end, self._end_now())
        if offset < self._end:
            self._tally.ahead += 1
        else:
            self._add(Kind.UNEXPECTED, offset, f"the input ends at {self._end}")
        return False

    def _miss(self, fate: _Fate) -> None:
        if fate.is_deletion:
            detail = "the deletion was not passed on"
        elif fate.count == 0:
            detail = "no passage of it and no dead letter"
        else:
            gaps = (str(index) for index in range(fate.count) if not fate.seen >> index & 1)
            number = fate.count - fate.seen.bit_count()
            named = ", ".join(islice(gaps, _NAMED_PASSAGES)) + (", ..." if number > _NAMED_PASSAGES else "")
            detail = f"{number} of {fate.count} passages: {named}"
        self._add(Kind.MISSING, fate.offset, detail)

    def _add(self, kind: Kind, offset: int, detail: str) -> None:
        self._tally.add(kind, f"{self._name}/{offset}", detail)
