"""What the end of an output topic says about the input it was made from."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.records import header_list
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source
from schemas.records import SourcePosition
from schemas.wire import WireError, decode_embedding_fields

__all__ = ["Written", "newest_written"]

READ_SECONDS = 10.0
FIRST_LOOK_RECORDS = 16


@dataclass(frozen=True, slots=True)
class Written:
    """One output record: the input that it comes from and the model that made it (None for a deletion)."""

    source: SourcePosition
    fingerprint: str | None


def newest_written(
    consumer: Consumer, topic: str, partition: int, documents_topic: str, inputs: Collection[int]
) -> list[Written]:
    """The newest record of the output partition, and the newest of each input partition in `inputs`.

    Looks back from the end, twice as far each time, until all were found or the partition's start is
    reached: an input partition without any output costs a read of the whole output partition, so ask for
    those only that must be known.

    Raises:
        KafkaException: the broker does not answer.
    """
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_SECONDS)
    span = FIRST_LOOK_RECORDS
    while True:
        start = max(low, high - span)
        found: dict[int, Written] = {}
        newest: Written | None = None
        for message in _read(consumer, topic, partition, start, high):
            written = _written(message)
            if written is not None and written.source.topic == documents_topic:
                newest = written
                if written.source.partition in inputs:
                    found[written.source.partition] = written
        if start == low or (newest is not None and len(found) == len(inputs)):
            return [*found.values(), *([newest] if newest is not None else [])]
        span *= 2


def _read(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
    """The records from `start` up to the end of the partition as it was at `end`."""
    if start >= end:
        return
    consumer.assign([TopicPartition(topic, partition, start)])
    deadline = time.monotonic() + READ_SECONDS
    try:
        while True:
            message = consumer.poll(0.5)
            if message is None:
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                continue
            deadline = time.monotonic() + READ_SECONDS
            error = message.error()
            if error is None:
                # A partition that the others write to all the time never reports its end.
                if (message.offset() or 0) >= end:
                    return
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
    finally:
        consumer.unassign()


def _written(message: Message) -> Written | None:
    """What a record of either output topic says; None for one that says nothing."""
    headers = header_list(message)
    value = message.value()
    try:
        letter = DeadLetter.from_headers(headers)
        return Written(letter.source, letter.model_fingerprint)
    except (KeyError, ValueError):
        pass
    if value is None:
        source = deletion_source(headers)
        return None if source is None else Written(source, None)
    try:
        fields = decode_embedding_fields(value)
    except WireError:
        return None
    return Written(SourcePosition(**fields["source"]), fields["model_fingerprint"])
