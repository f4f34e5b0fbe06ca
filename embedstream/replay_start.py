"""Where a replay begins: for every partition an offset, committed before any of its daemons joins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from embedstream.dead_letters import parse_time
from embedstream.errors import ConfigError, UsageError
from embedstream.offsets import GroupOffsets, end_offsets, offsets_at, start_offsets

__all__ = ["BEGINNING", "Start", "commit_start", "find_start"]

BEGINNING = "beginning"
_OFFSETS = re.compile(r"\d{1,9}:\d{1,18}(,\d{1,9}:\d{1,18})*")


@dataclass(frozen=True)
class Start:
    """Where each partition of the documents is read from, and how far it goes.

    Attributes:
        first: Of each partition, the oldest offset that it holds.
        begin: Of each partition, where the replay begins.
        ends: Of each partition, its end.
    """

    first: Mapping[int, int]
    begin: Mapping[int, int]
    ends: Mapping[int, int]

    @property
    def records(self) -> int:
        """How many offsets are to be read."""
        return sum(max(0, self.ends[each] - begin) for each, begin in self.begin.items())

    def resumed(self, committed: Mapping[int, int]) -> Start:
        """The same replay, gone on with where the group is; a partition that was added is read whole."""
        return Start(self.first, {**self.first, **committed}, self.ends)


def find_start(admin: AdminClient, topic: str, partitions: int, wanted: str = BEGINNING) -> Start:
    """Work out where to begin.

    Args:
        admin: Of the cluster.
        topic: The documents topic.
        partitions: How many it has.
        wanted: `beginning`, a time, or PARTITION:OFFSET of every partition, joined by commas.

    Raises:
        UsageError: It is none of the three, or names what the topic does not hold.
        ServiceUnavailableError: No broker answers.
    """
    numbers = range(partitions)
    first, ends = start_offsets(admin, topic, numbers), end_offsets(admin, topic, numbers)
    if wanted == BEGINNING:
        return Start(first, first, ends)
    if _OFFSETS.fullmatch(wanted):
        return Start(first, _named(wanted, topic, first, ends), ends)
    return Start(first, _since(admin, topic, wanted, ends), ends)


def commit_start(offsets: GroupOffsets, topic: str, start: Start, fingerprint: str) -> bool:
    """Commit where the replay begins, for every partition at once, unless the group has begun already.

    Returns:
        Whether it had not.

    Raises:
        ConfigError: The group has members and no offsets of the topic: it is not a replay's.
        ServiceUnavailableError: No broker answers.
    """
    if offsets.read(topic, start.begin):
        return False
    try:
        _write(offsets, topic, start, fingerprint)
    except ConfigError:
        # Another `replay` may have begun, and joined, since.
        if offsets.read(topic, start.begin):
            return False
        raise ConfigError(
            f"the group of the replay has members and has committed no offsets of {topic!r}: they are of"
            " another program",
            "name another --output, after which the group is named",
        ) from None
    return True


def _write(offsets: GroupOffsets, topic: str, start: Start, fingerprint: str) -> None:
    # The model's name beside an offset says that what lies before has output: true at the beginning only.
    offsets.write(
        [
            TopicPartition(topic, each, begin, fingerprint if begin <= start.first[each] else "")
            for each, begin in start.begin.items()
        ]
    )


def _named(wanted: str, topic: str, first: Mapping[int, int], ends: Mapping[int, int]) -> Mapping[int, int]:
    pairs = [each.split(":") for each in wanted.split(",")]
    named = {int(partition): int(offset) for partition, offset in pairs}
    if len(named) < len(pairs):
        raise UsageError(f"--from {wanted} names a partition twice", "give one offset for each")
    for partition, offset in named.items():
        if partition not in ends:
            raise UsageError(
                f"--from {wanted}: {topic} has no partition {partition}", f"it has 0 to {max(ends)}"
            )
        if not first[partition] <= offset <= ends[partition]:
            raise UsageError(
                f"--from {wanted}: partition {partition} of {topic} has no offset {offset}",
                f"it has {first[partition]} to {ends[partition]}",
            )
    missing = sorted(ends.keys() - named.keys())
    if missing:
        raise UsageError(
            f"--from {wanted} names no offset for partition {', '.join(map(str, missing))}",
            "give one for every partition",
        )
    return named


def _since(admin: AdminClient, topic: str, wanted: str, ends: Mapping[int, int]) -> Mapping[int, int]:
    mend = f"write {BEGINNING}, 2026-01-31T12:00:00Z, 7d, or PARTITION:OFFSET,... for every partition"
    # Below zero, Kafka's times have meanings of their own.
    since = max(0, parse_time(wanted, "--from", mend))
    found = offsets_at(admin, topic, ends, since)
    if all(offset < 0 for offset in found.values()):
        told = datetime.fromtimestamp(since / 1000, UTC).isoformat(timespec="seconds")
        raise UsageError(f"--from {wanted}: {topic} holds no record since {told}", "give an earlier time")
    return {each: offset if offset >= 0 else ends[each] for each, offset in found.items()}
