"""Documents for consumer daemons to read, and what became of them in the topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedstream.kafka import make_producer
from embedstream.offsets import committed_offsets
from schemas.deletion import deletion_headers
from tests.kafka import Topics, read_all
from tests.oracle import Outcome, check_exactly_once
from tests.unit.consumer.items import a_value

__all__ = ["committed", "documents", "outcome", "send"]


def send(topics: Topics, values: Sequence[bytes | None], partitions: int = 3, timestamp: int = 0) -> None:
    """Sends the values to the partitions in turn; None is a deletion.

    `timestamp` is that of the records, in milliseconds since the epoch; 0 is now.
    """
    producer = make_producer(topics.kafka)
    for number, value in enumerate(values):
        headers = deletion_headers(1) if value is None else []
        partition = number % partitions
        producer.produce(topics.documents, value, b"key", partition, timestamp=timestamp, headers=headers)  # type: ignore[arg-type]
    assert producer.flush(30) == 0


def documents(count: int, words: int = 30, first: int = 0) -> list[bytes | None]:
    """Documents that all differ, their ids numbered from `first`; 30 words make three passages each."""
    return [
        a_value(" ".join(f"word{number} number{each}." for each in range(words)), number)
        for number in range(first, first + count)
    ]


def committed(topics: Topics, partitions: int = 3) -> dict[int, int]:
    """The group's offset of each partition that has one."""
    found = committed_offsets(topics.kafka, topics.documents, topics.documents, range(partitions))
    return {partition: each.offset for partition, each in found.items()}


def outcome(topics: Topics, partitions: int = 3, writer: Any = None) -> Outcome:
    """What came of the records before the group's offsets; `writer` is their schema, if it is not ours."""
    offsets = committed(topics, partitions)
    return check_exactly_once(
        read_all(topics.bootstrap, topics.documents),
        read_all(topics.bootstrap, topics.embeddings),
        read_all(topics.bootstrap, topics.dead_letters),
        offsets,
        writer,
    )
