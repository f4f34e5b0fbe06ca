"""What the end of an output topic says about the input it was made from, and that input itself."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.records import header_list
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source, deletion_version
from schemas.records import SourcePosition
from schemas.wire import WireError, decode_document, decode_embedding_fields

__all__ = ["DocumentVersion", "Written", "document_version", "first_record", "newest_written"]

DocumentVersion = tuple[str, int]
"""A document's id and version: no other record of the input has both, but its other segments."""

READ_SECONDS = 10.0
FIRST_LOOK_RECORDS = 16


@dataclass(frozen=True, slots=True)
class Written:
    """One output record.

    Attributes:
        partition: of the output topic.
        source: the input record that it comes from.
        fingerprint: of the model that made it; None for a deletion.
        document: of the input record; None where that could not be read.
    """

    partition: int
    source: SourcePosition
    fingerprint: str | None
    document: DocumentVersion | None


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


def first_record(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Message | None:
    """The first record from `start` up to `end`, or None where there is none.

    Raises:
        KafkaException: the broker does not answer.
    """
    with closing(_read(consumer, topic, partition, start, end)) as records:
        return next(records, None)


def document_version(message: Message) -> DocumentVersion | None:
    """What an input record is a version of; None for one that can't be read."""
    value = message.value()
    if value is None:
        # As where it is passed on: without a version of its own, the broker's time is its version.
        return _deleted(message) or (_key(message), message.timestamp()[1])
    try:
        document = decode_document(value)
    except WireError:
        return None
    return document.id, document.version


def _read(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Generator[Message]:
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
    value, partition = message.value(), message.partition() or 0
    try:
        letter = DeadLetter.from_headers(headers)
    except ValueError:
        pass
    else:
        id, version = letter.document_id, letter.document_version
        document = None if id is None or version is None else (id, version)
        return Written(partition, letter.source, letter.model_fingerprint, document)
    if value is None:
        source = deletion_source(headers)
        return None if source is None else Written(partition, source, None, _deleted(message))
    try:
        fields = decode_embedding_fields(value)
    except WireError:
        return None
    document = (fields["document_id"], fields["document_version"])
    return Written(partition, SourcePosition(**fields["source"]), fields["model_fingerprint"], document)


def _deleted(message: Message) -> DocumentVersion | None:
    version = deletion_version(header_list(message))
    return None if version is None else (_key(message), version)


def _key(message: Message) -> str:
    return (message.key() or b"").decode(errors="replace")
