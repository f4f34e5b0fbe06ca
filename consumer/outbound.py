"""From a window with its vectors to the records that are produced for it. Pure: no Kafka client in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from consumer.encoder import ModelInfo
from consumer.records import (
    Deletion,
    EmbeddedWindow,
    EndOfPartition,
    Failure,
    Input,
    Item,
    Refused,
    SplitDocument,
)
from schemas.dead_letter import DeadLetter, Reason
from schemas.deletion import passed_on_headers
from schemas.embedding_writer import SINGLE_OBJECT_HEADER, EmbeddingWriter
from schemas.records import SourcePosition, embedding_id

__all__ = ["ItemRecords", "OutboundRecord", "OutputLayout", "build_records"]

# What the broker counts besides key and value: the batch and record headers, generously.
RECORD_OVERHEAD_BYTES = 512

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Where output goes: the two topics, their partition counts, and the largest record each takes.

    `embeddings_header` is what the value of an embedding begins with.
    """

    embeddings_topic: str
    embeddings_partitions: int
    embeddings_max_bytes: int
    dead_letters_topic: str
    dead_letters_partitions: int
    dead_letters_max_bytes: int
    embeddings_header: bytes = SINGLE_OBJECT_HEADER

    @property
    def batch_bytes(self) -> int:
        """The most bytes of records that both topics take at once."""
        return min(self.embeddings_max_bytes, self.dead_letters_max_bytes) - RECORD_OVERHEAD_BYTES


class OutboundRecord(NamedTuple):
    """One record to produce."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class ItemRecords(NamedTuple):
    """An item and all that is produced for it: its embeddings, one dead letter, a deletion, or nothing.

    `failure` tells why there is a dead letter.
    """

    item: Item
    records: tuple[OutboundRecord, ...]
    failure: Failure | None = None


def build_records(
    embedded: EmbeddedWindow, layout: OutputLayout, model: ModelInfo, *, store_text: bool, now_ms: int
) -> list[ItemRecords]:
    """The records of a window, item by item, in the order of the inputs."""
    outcomes = iter(embedded.outcomes)
    writer = EmbeddingWriter(
        model.name,
        model.fingerprint,
        model.precision,
        dim=model.dim,
        embedded_at=now_ms,
        header=layout.embeddings_header,
    )
    built = []
    for item in embedded.window.items:
        if isinstance(item, SplitDocument):
            own = list(islice(outcomes, len(item.passages)))
            built.append(_document(item, own, layout, model, writer, store_text=store_text))
        elif isinstance(item, EndOfPartition):
            built.append(ItemRecords(item, ()))
        elif isinstance(item, Refused):
            failure = Failure(item.reason, item.message)
            built.append(_dead(item, failure, layout, model, item.document_id, item.document_version))
        else:
            built.append(ItemRecords(item, (_deletion(item, layout),)))
    return built


def _document(
    item: SplitDocument,
    outcomes: list[NDArray[np.float32] | Failure],
    layout: OutputLayout,
    model: ModelInfo,
    writer: EmbeddingWriter,
    *,
    store_text: bool,
) -> ItemRecords:
    """All embeddings of a document, or none and a dead letter if one of its passages failed."""
    document, source = item.document, item.input
    content, start = document.content, document.start_char
    partition = source.partition % layout.embeddings_partitions
    of_document = writer.document(
        document.identity,
        document.content_hash,
        (source.topic, source.partition, source.offset),
        document.segment,
        passages=len(outcomes),
        metadata=document.metadata,
    )
    records = []
    largest = 0
    for index, (passage, outcome) in enumerate(zip(item.passages, outcomes, strict=True)):
        if isinstance(outcome, Failure):
            failure = Failure(outcome.reason, f"passage {index} of {len(outcomes)}: {outcome.message}")
            return _dead(item, failure, layout, model, document.id, document.version)
        chars = start + passage.start_char, start + passage.end_char
        identifier = embedding_id(model.fingerprint, document.id, *chars).encode()
        text = content[passage.start_char : passage.end_char] if store_text else None
        value = of_document.passage(identifier, index, chars, text, passage.token_count, outcome)
        size = len(value) + len(identifier) + RECORD_OVERHEAD_BYTES
        if size > largest:
            largest = size
        records.append(OutboundRecord(layout.embeddings_topic, partition, identifier, value, ()))
    if largest > layout.embeddings_max_bytes:
        failure = Failure(
            Reason.TOO_LARGE,
            f"an embedding record of {largest} bytes is over the {layout.embeddings_max_bytes} that"
            f" {layout.embeddings_topic} takes (max.message.bytes)",
        )
        return _dead(item, failure, layout, model, document.id, document.version)
    return ItemRecords(item, tuple(records))


def _deletion(item: Deletion, layout: OutputLayout) -> OutboundRecord:
    source = item.input
    return OutboundRecord(
        layout.embeddings_topic,
        source.partition % layout.embeddings_partitions,
        source.key,
        None,
        tuple(passed_on_headers(item.version, _position(source))),
    )


def _dead(
    item: SplitDocument | Refused,
    failure: Failure,
    layout: OutputLayout,
    model: ModelInfo,
    document_id: str | None,
    document_version: int | None,
) -> ItemRecords:
    """The dead letter: the input's own bytes, and the reason in headers."""
    source = item.input
    letter = DeadLetter(
        error_class=failure.reason,
        error_message=failure.message,
        source=_position(source),
        model=model.name,
        model_fingerprint=model.fingerprint,
        attempts=1 + _attempts(source),
        document_id=document_id,
        document_version=document_version,
    )
    headers: Headers = tuple(letter.to_headers())
    value = source.value
    if source.size + RECORD_OVERHEAD_BYTES + 2048 > layout.dead_letters_max_bytes:
        # A record that its topic does not take would stop everything. The original stays where the source
        # headers say; this header says that it was left out.
        headers = (*headers, ("value.omitted.bytes", str(len(value or b"")).encode()))
        value = None
    partition = source.partition % layout.dead_letters_partitions
    record = OutboundRecord(layout.dead_letters_topic, partition, source.key, value, headers)
    return ItemRecords(item, (record,), failure)


def _attempts(source: Input) -> int:
    """How often the record was tried before, from the header of a dead letter that was sent back."""
    for name, value in source.headers:
        if name == "attempts" and value is not None and value.isdigit():
            return int(value)
    return 0


def _position(source: Input) -> SourcePosition:
    return SourcePosition(topic=source.topic, partition=source.partition, offset=source.offset)
