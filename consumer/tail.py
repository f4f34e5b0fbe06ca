"""What the end of an output topic says about the input it was made from, and that input itself."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.records import header_list
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source, deletion_version
from schemas.records import SourcePosition
from schemas.wire import WireError, decode_document, decode_embedding_fields

__all__ = [
    "DocumentVersion",
    "Range",
    "Written",
    "document_version",
    "first_record",
    "newest_written",
    "records_at",
]

DocumentVersion = tuple[str, int]
"""A document's id and version: no other record of the input has both, but its other segments."""

Range = tuple[int, int]
"""An offset and the one after the last."""

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
    consumer: Consumer,
    topic: str,
    bounds: Mapping[int, Range],
    documents_topic: str,
    inputs: Collection[int],
) -> list[Written]:
    """The newest record of each output partition, and the newest of each input partition in `inputs`.

    Looks back from the ends of all partitions at once, twice as far each time, until all were found or the
    start is reached: an input partition without any output costs a read of the whole output partition, so
    ask for those only that must be known.

    Args:
        consumer: assigned as it pleases.
        topic: the output topic.
        bounds: the oldest offset of each of its partitions, and the end that the consumer can reach.
        documents_topic: records of other topics don't count.
        inputs: input partitions; the output of each is in the partition of its number, modulo their count.

    Raises:
        KafkaException: the broker does not answer.
    """
    wanted = {partition: {each for each in inputs if each % len(bounds) == partition} for partition in bounds}
    written: list[Written] = []
    left, span = dict(bounds), FIRST_LOOK_RECORDS
    while left:
        ranges = {partition: (max(low, high - span), high) for partition, (low, high) in left.items()}
        newest: dict[int, Written] = {}
        found: dict[int, dict[int, Written]] = {partition: {} for partition in left}
        for message in _read(consumer, topic, ranges):
            each = _written(message)
            if each is not None and each.source.topic == documents_topic:
                newest[each.partition] = each
                if each.source.partition in wanted[each.partition]:
                    found[each.partition][each.source.partition] = each
        for partition, (start, _) in ranges.items():
            is_found = partition in newest and len(found[partition]) == len(wanted[partition])
            if is_found or start == left[partition][0]:
                del left[partition]
                written += found[partition].values()
                written += [newest[partition]] if partition in newest else []
        span *= 2
    return written


def records_at(consumer: Consumer, topic: str, offsets: Mapping[int, int]) -> dict[int, Message]:
    """The record at the offset given for each partition, left out where there is none.

    Raises:
        KafkaException: the broker does not answer.
    """
    ranges = {partition: (offset, offset + 1) for partition, offset in offsets.items()}
    return {message.partition() or 0: message for message in _read(consumer, topic, ranges)}


def first_record(consumer: Consumer, topic: str, partition: int, start: int, end: int) -> Message | None:
    """The first record from `start` up to `end`, or None where there is none.

    Raises:
        KafkaException: the broker does not answer.
    """
    with closing(_read(consumer, topic, {partition: (start, end)})) as records:
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


def _read(consumer: Consumer, topic: str, ranges: Mapping[int, Range]) -> Generator[Message]:
    """The records of each partition from an offset up to another, all partitions at once."""
    ends = {partition: end for partition, (start, end) in ranges.items() if start < end}
    if not ends:
        return
    consumer.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in ends])
    deadline = time.monotonic() + READ_SECONDS
    try:
        while ends:
            message = consumer.poll(0.5)
            if message is None:
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                continue
            deadline = time.monotonic() + READ_SECONDS
            error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.fatal() or not error.retriable():
                    raise KafkaException(error)
                continue
            if partition not in ends:
                continue
            if error is None and offset < ends[partition]:
                yield message
            # A partition that the others write to all the time never reports its end.
            if error is not None or offset + 1 >= ends[partition]:
                del ends[partition]
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
