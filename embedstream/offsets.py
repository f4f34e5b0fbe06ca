"""Offsets as an AdminClient tells them: where partitions begin and end, and what a group has committed."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from embedstream.kafka import explain

__all__ = ["committed_offsets", "end_offsets", "start_offsets"]

REQUEST_SECONDS = 10.0


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


def committed_offsets(
    admin: AdminClient, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, TopicPartition]:
    """Return what the group has committed, with its metadata, for each partition that has an offset.

    Offsets pending in an open transaction don't count.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, each) for each in partitions])
    try:
        answer = admin.list_consumer_group_offsets([asked], request_timeout=REQUEST_SECONDS)[group].result()
        for each in answer.topic_partitions:
            if each.error is not None:
                raise KafkaException(each.error)
    except KafkaException as error:
        raise explain(error) from None
    return {each.partition: each for each in answer.topic_partitions if each.offset >= 0}


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
    futures = admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_SECONDS)
    try:
        return {each.partition: future.result().offset for each, future in futures.items()}
    except KafkaException as error:
        raise explain(error) from None
