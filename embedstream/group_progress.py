"""What a consumer group has done and has to do, from Kafka: lag, members, and the estimate of the time left.

    with GroupProgress(settings.kafka, "embedstream") as group:
        snapshot = group.look()

A job is what lay in the topic when it began: its ends are frozen then. When all of it is committed and there
is more, the next job begins. What was done before is done: a daemon that is started again in the middle of a
corpus goes on in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from confluent_kafka import IsolationLevel

from embedstream.group_members import Member, classic_group, described_members
from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import GroupOffsets, end_offsets, start_offsets
from embedstream.progress import Estimate, History, Profile, Stratum, estimate
from embedstream.settings import KafkaSettings
from embedstream.topic_sizes import sample_sizes

__all__ = ["GroupProgress", "Snapshot"]

# A stretch that is too short to be worth a read weighs as what lies before it.
FEW_RECORDS = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A look at a group.

    Attributes:
        job_began: Unix time at which the job's ends were frozen.
        targets: The job's end of each partition.
        lag: Offsets between what is committed and today's end of each partition.
        members: Those of the group; None where the broker does not tell.
        estimate: How far the job is.
    """

    job_began: float
    targets: Mapping[int, int]
    lag: Mapping[int, int]
    members: tuple[Member, ...] | None
    estimate: Estimate


class GroupProgress:
    """Looks at a group now and then; for one thread. A context manager."""

    def __init__(
        self,
        kafka: KafkaSettings,
        group: str,
        *,
        is_daemon: bool = False,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects to nothing yet.

        Args:
            kafka: Where the group and its topic are.
            group: The consumer group.
            is_daemon: Whether the process must outlive a broker's troubles. The members of a group with the
                consumer protocol are then not known, and the estimate takes the group for one daemon.
            stopping: Ends a long sampling early.
            clock: Seconds that never go back.
        """
        self._kafka = kafka
        self._topic = kafka.documents_topic
        self._group = group
        self._is_daemon = is_daemon
        self._stopping = stopping
        self._clock = clock
        self._admin = make_admin(kafka)
        self._offsets = GroupOffsets(kafka, group)
        self._profile = Profile({})
        self._history = History()
        self._targets: dict[int, int] = {}
        self._job_began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._offsets.__exit__()

    def look(self) -> Snapshot:
        """Ask Kafka how far the group is.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: The topic does not exist.
        """
        partitions = range(topic_partitions(self._admin, self._topic, "kafka.documents_topic"))
        starts = start_offsets(self._admin, self._topic, partitions)
        ends = end_offsets(self._admin, self._topic, partitions, IsolationLevel.READ_COMMITTED)
        answer = self._offsets.read(self._topic, partitions)
        committed = {p: max(starts[p], answer[p].offset if p in answer else 0) for p in partitions}
        self._freeze(starts, ends, committed)
        members = self._members()
        owners = [each.partitions for each in members or () if each.partitions]
        self._history.add(self._clock(), committed, self._profile, owners)
        return Snapshot(
            self._job_began,
            dict(self._targets),
            {p: max(0, ends[p] - committed[p]) for p in partitions},
            members,
            estimate(self._history, self._profile, owners),
        )

    def _members(self) -> tuple[Member, ...] | None:
        found = classic_group(self._admin, self._group, self._topic)
        if found is not None:
            return found.members
        return None if self._is_daemon else described_members(self._admin, self._group, self._topic)

    def _freeze(
        self, starts: Mapping[int, int], ends: Mapping[int, int], committed: Mapping[int, int]
    ) -> None:
        """Begins a job if there is none, the last is done and there is more, or the topic is another."""
        targets = self._targets
        is_another = any(ends.get(p, 0) < target for p, target in targets.items())
        if is_another:
            self._profile, targets = Profile({}), {}
        is_done = all(committed.get(p, 0) >= target for p, target in targets.items())
        has_more = any(end > targets.get(p, 0) for p, end in ends.items())
        if self._job_began and not is_another and not (is_done and has_more):
            return
        ranges = {p: (max(starts[p], targets.get(p, 0)), end) for p, end in ends.items()}
        self._profile = self._extended(ranges)
        self._targets, self._job_began = dict(ends), time.time()
        # Idle hours before a job are no slow rate.
        self._history = History()

    def _extended(self, ranges: Mapping[int, tuple[int, int]]) -> Profile:
        """The profile with what was appended since; what was there before is done, and one stratum."""
        old = {p: _as_one(strata) for p, strata in self._profile.strata.items() if strata}
        worth = {
            p: (start, end) for p, (start, end) in ranges.items() if end - start > FEW_RECORDS or p not in old
        }
        new = sample_sizes(self._kafka, self._topic, worth, self._stopping).strata
        strata = {p: [*([old[p]] if p in old else []), *new.get(p, ())] for p in ranges}
        for p, (_, end) in ranges.items():
            if p not in worth:
                strata[p] = [replace(old[p], end=end)]
        return Profile(strata)


def _as_one(strata: Sequence[Stratum]) -> Stratum:
    """Strata that follow on each other; of what is done, it does not matter where its bytes lie."""
    start, end = strata[0].start, strata[-1].end
    return Stratum(start, end, sum(each.bytes for each in strata) / max(1, end - start), 0.0)
