"""Offsets as the broker tells them: where partitions begin and end, and what a group has committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Self

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.kafka import explain, is_denied, make_consumer
from embedstream.settings import KafkaSettings

__all__ = ["GroupOffsets", "committed_offsets", "end_offsets", "offsets_at", "start_offsets"]

REQUEST_SECONDS = 10.0
_COORDINATOR_MOVES = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
)
_LEADER_MOVES = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
_HAS_MEMBERS = (
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
)


def start_offsets(admin: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return the offset of the oldest record that each partition still holds, or its end if it holds none.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    return _offsets(admin, topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def end_offsets(
    admin: AdminClient,
    topic: str,
    partitions: Iterable[int],
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[int, int]:
    """Return the end of each partition: the high watermark, or what a read_committed reader can reach.

    What open transactions hold lies between the two.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    return _offsets(admin, topic, partitions, OffsetSpec.latest(), isolation)  # type: ignore[no-untyped-call]


def offsets_at(admin: AdminClient, topic: str, partitions: Iterable[int], since: int) -> dict[int, int]:
    """Return the offset of the first record of each partition from a time on; -1 where there is none.

    Args:
        admin: Of the cluster.
        topic: Of the partitions.
        partitions: Which.
        since: Milliseconds since the epoch.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    return _offsets(admin, topic, partitions, OffsetSpec.for_timestamp(since))


class GroupOffsets:
    """A group's committed offsets, read and written without joining it. One thread at a time may use it.

    A consumer that never subscribes, not an AdminClient: librdkafka's ListConsumerGroupOffsets ends the whole
    process with a segmentation fault when the group's coordinator has just moved (its issues 5040 and 5315,
    open in 2.16).
    """

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        # read_uncommitted: offsets that are pending in a transaction would make the answer wait for its end.
        self._consumer = make_consumer(kafka, group_id=group, isolation_level="read_uncommitted")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, topic: str, partitions: Iterable[int]) -> dict[int, TopicPartition]:
        """Return what is committed, with its metadata, for each partition that has an offset.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: This user may not see the group.
        """
        asked = [TopicPartition(topic, each) for each in partitions]
        if not asked:
            return {}
        try:
            answer = _repeat(lambda: self._consumer.committed(asked, timeout=REQUEST_SECONDS))
        except ServiceUnavailableError:
            # A client that may not ask for the coordinator asks until its time is up; here it says why.
            message = self._consumer.poll(0)
            error = None if message is None else message.error()
            if error is not None and is_denied(error):
                raise explain(KafkaException(error)) from None
            raise
        return {each.partition: each for each in answer if each.offset >= 0}

    def write(self, offsets: list[TopicPartition]) -> None:
        """Commit offsets for a group that has no members.

        Raises:
            ConfigError: The group has members, which commit for themselves.
            ServiceUnavailableError: No broker answers.
        """
        try:
            _repeat(lambda: self._consumer.commit(offsets=offsets, asynchronous=False) or [], _HAS_MEMBERS)
        except KafkaException:
            raise ConfigError("the group has members, so its offsets can't be set", "stop them") from None


def committed_offsets(
    kafka: KafkaSettings, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, TopicPartition]:
    """Return what the group has committed, with its metadata, for each partition that has an offset.

    Offsets pending in an open transaction don't count.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    with GroupOffsets(kafka, group) as offsets:
        return offsets.read(topic, partitions)


def _repeat(call: Callable[[], list[TopicPartition]], expected: Collection[int] = ()) -> list[TopicPartition]:
    """Repeat a call while the group's coordinator moves; pass on errors whose code is expected."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            answer = call()
            for each in answer:
                if each.error is not None:
                    raise KafkaException(each.error)
            return answer
        except KafkaException as error:
            code = error.args[0].code()
            if code in expected:
                raise
            if code not in _COORDINATOR_MOVES or time.monotonic() > deadline:
                raise explain(error) from None
            time.sleep(0.1)


def _offsets(
    admin: AdminClient,
    topic: str,
    partitions: Iterable[int],
    spec: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[int, int]:
    asked = {TopicPartition(topic, each): spec for each in partitions}
    if not asked:
        return {}
    deadline = time.monotonic() + REQUEST_SECONDS
    while True:
        futures = admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
        try:
            return {each.partition: future.result().offset for each, future in futures.items()}
        except KafkaException as error:
            # A topic that was just made, or a broker that has just gone.
            if error.args[0].code() not in _LEADER_MOVES or time.monotonic() > deadline:
                raise explain(error) from None
            time.sleep(0.1)
