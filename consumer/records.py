"""What travels between the consumer's threads: frozen, so that each has one owner at a time.

What is made for every record is a named tuple, which takes a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from consumer.split import Passage
from schemas.dead_letter import Reason
from schemas.document_parts import DocumentParts

__all__ = [
    "Deletion",
    "EmbeddedWindow",
    "EndOfPartition",
    "Failure",
    "Input",
    "Item",
    "Polled",
    "Refused",
    "SplitDocument",
    "Window",
    "header_list",
    "next_offsets",
    "polled",
]


class Input(NamedTuple):
    """A record of the documents topic, as it was read.

    Attributes:
        assignment: The number of the assignment of its partition under which it was read.
        timestamp: The broker's time of the record, in milliseconds.
    """

    topic: str
    partition: int
    offset: int
    assignment: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int

    @property
    def next_offset(self) -> int:
        """What to commit once this record is done."""
        return self.offset + 1

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        return len(self.key or b"") + len(self.value or b"") + 200


@dataclass(frozen=True, slots=True)
class EndOfPartition:
    """The end of a partition was reached: everything before `offset` has been read.

    It is carried through the pipeline like a record, because the end may lie behind transaction markers
    or aborted records that no record's own offset reaches.
    """

    topic: str
    partition: int
    offset: int
    assignment: int
    size: int = 0

    @property
    def next_offset(self) -> int:
        """What to commit once all that was read before is done."""
        return self.offset


Polled: TypeAlias = Input | EndOfPartition


class SplitDocument(NamedTuple):
    """A record that was read and cut into passages (at least one)."""

    input: Input
    document: DocumentParts
    passages: tuple[Passage, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that can't be embedded, and why."""

    input: Input
    reason: Reason
    message: str
    document_id: str | None = None
    document_version: int | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A record with a null value: the document is gone as of `version` (milliseconds)."""

    input: Input
    version: int


Item: TypeAlias = SplitDocument | Refused | Deletion | EndOfPartition


@dataclass(frozen=True, slots=True)
class Failure:
    """A passage that the encoder could not embed."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Window:
    """A run of inputs that is encoded, produced and committed as one."""

    number: int
    items: tuple[Item, ...]
    size: int

    @cached_property
    def documents(self) -> tuple[SplitDocument, ...]:
        """The items that go through the encoder, in order."""
        return tuple(item for item in self.items if isinstance(item, SplitDocument))

    @cached_property
    def tokens(self) -> int:
        """Tokens of all its passages, special tokens included."""
        return sum(len(passage.token_ids) for item in self.documents for passage in item.passages)

    @cached_property
    def distinct(self) -> tuple[tuple[NDArray[np.int32], ...], tuple[int, ...]]:
        """What the encoder computes: the token ids of all passages that differ, and for each passage its own.

        What repeats within a window (a licence, a header) is encoded once. The second is one index into the
        first for each passage of `documents`, in order.
        """
        first: dict[bytes, int] = {}
        distinct: list[NDArray[np.int32]] = []
        places = []
        for item in self.documents:
            for passage in item.passages:
                place = first.setdefault(passage.token_ids.tobytes(), len(distinct))
                places.append(place)
                if place == len(distinct):
                    distinct.append(passage.token_ids)
        return tuple(distinct), tuple(places)


@dataclass(frozen=True)
class EmbeddedWindow:
    """A window with one outcome for each passage of `window.documents`, in order.

    A vector is float32, shape (dim,), of unit length.
    """

    window: Window
    outcomes: tuple[NDArray[np.float32] | Failure, ...]


def polled(item: Item) -> Polled:
    """The input that an item comes from."""
    return item if isinstance(item, EndOfPartition) else item.input


def next_offsets(inputs: Iterable[Polled]) -> dict[tuple[str, int], int]:
    """The offset to commit for each (topic, partition) once all of `inputs` are done."""
    offsets: dict[tuple[str, int], int] = {}
    for each in inputs:
        # In a partition inputs come in order: the last one counts.
        offsets[each.topic, each.partition] = each.next_offset
    return offsets


def header_list(message: Message) -> list[tuple[str, bytes | None]]:
    """A message's headers as pairs; the client's types allow forms that a consumed message never has."""
    headers = message.headers()
    if not headers:
        return []
    return [(name, value) for name, value in headers if not isinstance(value, str)]  # type: ignore[str-unpack]
