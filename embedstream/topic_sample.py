"""A sample of the documents topic: how large its records are where, and what they hold.

    stretches = sample_topic(kafka, start.begin, start.ends)
    bytes_before(stretches, committed)

Each partition is cut into stretches of offsets, and a few records are read where each begins. Memory holds
one stretch's at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.kafka import explain, make_consumer
from embedstream.settings import KafkaSettings

__all__ = ["Stretch", "bytes_before", "cut", "sample_topic"]

STRETCHES = 64
RECORDS_EACH = 8
# A silent broker, or a transaction that stays open: what was read until then has to do.
_SILENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Stretch:
    """A run of offsets of a partition, and what was found in the records that were read of it.

    Attributes:
        partition: Of the documents topic.
        start: Its first offset.
        end: The offset after its last.
        records: How many were read.
        bytes: The size of their values together.
        counted: What else was counted in them.
    """

    partition: int
    start: int
    end: int
    records: int = 0
    bytes: int = 0
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many offsets it has."""
        return self.end - self.start

    @property
    def looked_at(self) -> int:
        """How many of its offsets are accounted for: all where its records came to an end."""
        return self.records if self.records == RECORDS_EACH else self.size


def sample_topic(
    kafka: KafkaSettings,
    begin: Mapping[int, int],
    ends: Mapping[int, int],
    count: Callable[[Sequence[bytes | None]], Mapping[str, int]] = lambda _: {},
    stretches: int = STRETCHES,
) -> list[Stretch]:
    """Read a few records all over the documents topic.

    Args:
        kafka: How to connect, and the topic.
        begin: Of each partition, the first offset that matters.
        ends: Of each partition, its end.
        count: Counts in the values of some records; a deletion's is None.
        stretches: Into how many all partitions together are cut, about.

    Raises:
        ConfigError: The broker does not allow the topic to be read.
        ServiceUnavailableError: No broker answers.
    """
    consumer = make_consumer(kafka, group_id="embedstream-reader", fetch_wait_max_ms=100)
    try:
        found = []
        for each in cut(begin, ends, stretches):
            messages = list(_read(consumer, kafka.documents_topic, each))
            values = [message.value() for message in messages]
            size = sum(len(value or b"") for value in values)
            counted = dict(count(values))
            found.append(Stretch(each.partition, each.start, each.end, len(messages), size, counted))
        return found
    finally:
        consumer.close()


def cut(begin: Mapping[int, int], ends: Mapping[int, int], stretches: int) -> list[Stretch]:
    """Cut every partition into stretches of about the same size, at least one of each that has any."""
    whole = sum(max(0, ends[each] - start) for each, start in begin.items())
    found = []
    for partition, start in sorted(begin.items()):
        size = ends[partition] - start
        parts = min(size, max(1, round(stretches * size / whole))) if size > 0 else 0
        edges = [start + size * part // parts for part in range(parts + 1)] if parts else []
        found += [Stretch(partition, a, b) for a, b in pairwise(edges)]
    return found


def bytes_before(stretches: Sequence[Stretch], reached: Mapping[int, int]) -> float:
    """Return about how many bytes of values lie before the offsets that are reached in each partition.

    A partition that is not named is not begun. Where no record of a stretch could be read, one counts as
    large as those of all others on average.
    """
    records = sum(each.records for each in stretches)
    # Without any at all, a record is as good a measure as a byte.
    usual = sum(each.bytes for each in stretches) / records if records else 1.0
    total = 0.0
    for each in stretches:
        mean = each.bytes / each.records if each.records else usual
        passed = min(max(reached.get(each.partition, 0) - each.start, 0), each.size)
        # A stretch of deletions takes time too.
        total += passed * max(mean, 1.0)
    return total


def _read(consumer: Consumer, topic: str, stretch: Stretch) -> Iterator[Message]:
    """Yield the first records of a stretch."""
    consumer.assign([TopicPartition(topic, stretch.partition, stretch.start)])
    deadline = time.monotonic() + _SILENCE_SECONDS
    left = RECORDS_EACH
    while left and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return
            trouble = explain(KafkaException(error))
            if error.fatal() or isinstance(trouble, ConfigError | ServiceUnavailableError):
                raise trouble
            continue
        if message.partition() != stretch.partition or (message.offset() or 0) >= stretch.end:
            return
        deadline = time.monotonic() + _SILENCE_SECONDS
        left -= 1
        yield message
