"""Documents for consumer daemons to read, and what became of them in the topics."""

from __future__ import annotations

from embedstream.kafka import make_producer
from embedstream.offsets import committed_offsets
from schemas.deletion import deletion_headers
from schemas.wire import encode_document
from tests.kafka import Topics, read_all
from tests.oracle import Outcome, check_exactly_once
from tests.unit.consumer.items import a_document

__all__ = ["committed", "documents", "outcome", "send"]


def send(topics: Topics, values: list[bytes | None], partitions: int = 3) -> None:
    producer = make_producer(topics.kafka)
    for number, value in enumerate(values):
        headers = deletion_headers(1) if value is None else []
        producer.produce(topics.documents, value, b"key", partition=number % partitions, headers=headers)  # type: ignore[arg-type]
    assert producer.flush(30) == 0


def documents(count: int, words: int = 30) -> list[bytes | None]:
    made: list[bytes | None] = []
    for number in range(count):
        text = " ".join(f"word{number} number{each}." for each in range(words))
        document = a_document(offset=number).document.model_copy(update={"content": text})
        made.append(encode_document(document))
    return made


def committed(topics: Topics) -> dict[int, int]:
    found = committed_offsets(topics.kafka, topics.documents, topics.documents, range(3))
    return {partition: each.offset for partition, each in found.items()}


def outcome(topics: Topics) -> Outcome:
    offsets = committed(topics)
    return check_exactly_once(
        read_all(topics.bootstrap, topics.documents),
        read_all(topics.bootstrap, topics.embeddings),
        read_all(topics.bootstrap, topics.dead_letters),
        offsets,
    )
