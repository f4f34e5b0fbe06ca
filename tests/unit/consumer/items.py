"""Items of the pipeline for tests of its pure parts."""

from __future__ import annotations

import hashlib

import numpy as np

from consumer.records import Deletion, EndOfPartition, Input, Refused, SplitDocument
from consumer.split import Passage
from schemas.dead_letter import Reason
from schemas.document_parts import parts_of
from schemas.records import Document, Segment
from schemas.wire import decode_document, encode_document

__all__ = ["a_deletion", "a_document", "a_record", "a_refusal", "a_value", "an_end"]

TOPIC = "documents"


def a_record(
    partition: int = 0, offset: int = 0, assignment: int = 1, value: bytes | None = b"value"
) -> Input:
    return Input(TOPIC, partition, offset, assignment, b"key", value, (), 1_700_000_000_000)


def a_value(content: str, number: int = 0) -> bytes:
    """The bytes of a document's record that holds this text."""
    document = decode_document(a_document(offset=number).input.value or b"")
    return encode_document(document.model_copy(update={"content": content}))


def a_document(
    partition: int = 0,
    offset: int = 0,
    assignment: int = 1,
    lengths: tuple[int, ...] = (5,),
    start_char: int = 0,
) -> SplitDocument:
    """A document with one passage of `n` tokens and `n` characters for each n in `lengths`."""
    content = "x" * sum(lengths)
    document = Document(
        id=f"doc-{partition}-{offset}",
        version=7,
        content=content,
        content_hash=hashlib.sha256(content.encode()).hexdigest(),
        source="test",
        segment=Segment(index=0, count=1, start_char=start_char),
        metadata={"title": "A test"},
    )
    passages, start = [], 0
    for number, length in enumerate(lengths):
        ids = np.full(length, number + 1, np.int32)
        passages.append(Passage(start, start + length, ids, length))
        start += length
    record = a_record(partition, offset, assignment, encode_document(document))
    return SplitDocument(record, parts_of(document), tuple(passages), truncated=False)


def a_refusal(
    partition: int = 0, offset: int = 0, assignment: int = 1, value: bytes | None = b"bad"
) -> Refused:
    return Refused(a_record(partition, offset, assignment, value), Reason.NOT_AVRO, "no Avro")


def a_deletion(partition: int = 0, offset: int = 0, assignment: int = 1) -> Deletion:
    return Deletion(a_record(partition, offset, assignment, None), 9)


def an_end(partition: int = 0, offset: int = 0, assignment: int = 1) -> EndOfPartition:
    return EndOfPartition(TOPIC, partition, offset, assignment)
