"""Committed offsets: the consumer's checkpoints, with the model's fingerprint beside each.

The fingerprint says that what lies before the offset has output. An offset that somebody chose to begin at
stands alone until something after it was delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumer.outbound import ItemRecords
from consumer.records import next_offsets, polled

__all__ = ["beginnings_of", "have_landed", "offsets_of"]

COMMITTED_TIMEOUT_SECONDS = 2.0


def offsets_of(
    items: Sequence[ItemRecords], fingerprint: str, chosen: Mapping[int, int]
) -> list[TopicPartition]:
    """What to commit once the items are delivered; the fingerprint travels as the offset's metadata.

    Args:
        items: What is delivered.
        fingerprint: The model's.
        chosen: Of a partition that somebody chose where to begin in: that offset.
    """
    return _named(next_offsets(polled(each.item) for each in items), fingerprint, chosen)


def beginnings_of(
    items: Sequence[ItemRecords], fingerprint: str, chosen: Mapping[int, int]
) -> list[TopicPartition]:
    """Where the items begin in each partition: to commit before they are delivered; see `offsets_of`."""
    first: dict[tuple[str, int], int] = {}
    for each in items:
        begin = polled(each.item)
        # In a partition they come in order: the first one counts.
        first.setdefault((begin.topic, begin.partition), begin.offset)
    return _named(first, fingerprint, chosen)


def have_landed(consumer: Consumer, offsets: Sequence[TopicPartition]) -> bool:
    """Whether these very offsets (or later ones) are committed for the group.

    They were committed in one transaction, so either all of them were or none.

    Raises:
        KafkaException: no answer; offsets that are pending in a transaction time out.
    """
    wanted: Mapping[tuple[str, int], int] = {(o.topic, o.partition): o.offset for o in offsets}
    asked = [TopicPartition(topic, partition) for topic, partition in wanted]
    committed = consumer.committed(asked, timeout=COMMITTED_TIMEOUT_SECONDS)
    for each in committed:
        # Without an answer for each partition, a window that landed would be delivered once more.
        if each.error is not None:
            raise KafkaException(each.error)
    return all(c.offset >= wanted[c.topic, c.partition] for c in committed)


def _named(
    offsets: Mapping[tuple[str, int], int], fingerprint: str, chosen: Mapping[int, int]
) -> list[TopicPartition]:
    return [
        TopicPartition(topic, partition, offset, "" if chosen.get(partition) == offset else fingerprint)
        for (topic, partition), offset in offsets.items()
    ]
