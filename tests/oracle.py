"""What must be in the topics, worked out from them with fastavro alone: nothing of the product is used."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
from confluent_kafka import Message

__all__ = ["Outcome", "check_exactly_once", "decode", "source_of"]

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
Position = tuple[int, int]


class Passage(NamedTuple):
    """What is kept of an embedding."""

    number: int
    of: int
    start_char: int
    text: str


def _schema(name: str) -> Any:
    return fastavro.parse_schema(json.loads((SCHEMAS / f"{name}.avsc").read_text()))


_PARSED = {name: _schema(name) for name in ("document", "embedding")}


def decode(name: str, value: bytes, writer: Any = None) -> dict[str, Any]:
    """A record: two magic bytes, eight of fingerprint, the datum; or a zero, four bytes of id, the datum.

    It was written with our schema, unless another is given.
    """
    assert value[:2] == b"\xc3\x01" or value[:1] == b"\0"
    start = 10 if value[:2] == b"\xc3\x01" else 5
    parsed = _PARSED[name] if writer is None else fastavro.parse_schema(writer)
    record = fastavro.schemaless_reader(io.BytesIO(value[start:]), parsed, None)
    assert isinstance(record, dict)
    return record


@dataclass
class Outcome:
    """What was found for the input records below the committed offsets.

    Attributes:
        repeated: output records that came before; at least once may have them, if they say the same.
        differing: those of them that say something else than the first.
        untrue: input records whose passages, put together, are not the text of their document.
        reasons: the reason of each dead letter, by the position of its input.
    """

    inputs: int = 0
    embeddings: int = 0
    dead_letters: int = 0
    deletions: int = 0
    repeated: int = 0
    missing: list[Position] = field(default_factory=list)
    double: list[Position] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    untrue: list[Position] = field(default_factory=list)
    reasons: dict[Position, str] = field(default_factory=dict)

    @property
    def is_exactly_once(self) -> bool:
        return not (self.missing or self.double or self.unexpected or self.disordered or self.untrue)


class _Written:
    """All output, as it is read."""

    def __init__(self, outcome: Outcome) -> None:
        self.passages: dict[Position, list[Passage]] = defaultdict(list)
        self.others: Counter[Position] = Counter()
        self._outcome = outcome
        self._first: dict[tuple[Position, int], int] = {}
        self._last: dict[tuple[int, int], tuple[int, int]] = {}

    def add_embedding(self, partition: int, record: dict[str, Any]) -> None:
        position = (record["source"]["partition"], record["source"]["offset"])
        index = record["passage"]["index"]
        self.passages[position].append(
            Passage(index, record["passage"]["count"], record["start_char"], record["text"])
        )
        # The time of embedding is all that may differ when a record is embedded again.
        del record["embedded_at"]
        if self._is_first(position, index, record):
            place, here = (partition, position[0]), (position[1], index)
            if self._last.get(place, (-1, -1)) >= here:
                self._outcome.disordered.append(f"{place}: {here} after {self._last[place]}")
            self._last[place] = here

    def add_other(self, position: Position, content: object) -> None:
        """A dead letter or a deletion, of which a record has one and no passages."""
        self.others[position] += 1
        self._is_first(position, -1, content)

    def _is_first(self, position: Position, passage: int, content: object) -> bool:
        digest = hash(repr(content))
        known = self._first.get((position, passage))
        if known is None:
            self._first[position, passage] = digest
            return True
        self._outcome.repeated += 1
        if known != digest:
            self._outcome.differing.append(f"{position} passage {passage}")
        return False


def check_exactly_once(
    inputs: Iterable[Message],
    outputs: Iterable[Message],
    dead_letters: Iterable[Message],
    committed: dict[int, int],
    writer: Any = None,
) -> Outcome:
    """Checks input set = output set plus dead letters, once each, in order within each partition.

    Args:
        inputs: every record of the documents topic.
        outputs: every record of the embeddings topic that a read_committed reader sees.
        dead_letters: likewise.
        committed: the group's offset of each partition; what lies after is not looked at.
        writer: the schema of the documents, if it is not ours.
    """
    outcome = Outcome()
    everything = {(m.partition() or 0, m.offset() or 0): m.value() for m in inputs}
    wanted = {(partition, offset) for partition, offset in everything if offset < committed.get(partition, 0)}
    outcome.inputs = len(wanted)
    written = _Written(outcome)
    for message in outputs:
        value = message.value()
        if value is None:
            written.add_other(source_of(message), "deletion")
            outcome.deletions += 1
        else:
            written.add_embedding(message.partition() or 0, decode("embedding", value))
            outcome.embeddings += 1
    for message in dead_letters:
        reason = dict(message.headers() or [])["error.class"]
        told = reason.decode() if isinstance(reason, bytes) else str(reason)
        written.add_other(source_of(message), (told, message.key(), message.value()))
        outcome.reasons[source_of(message)] = told
        outcome.dead_letters += 1
    for position in wanted:
        found, others = written.passages.get(position, []), written.others[position]
        # As often as it came: each passage from the first to the last.
        distinct = {passage[:2]: passage for passage in sorted(found)}
        count = found[0].of if found else 0
        whole = bool(found) and list(distinct) == [(number, count) for number in range(count)]
        if others + whole == 0:
            outcome.missing.append(position)
        if whole and not _tell([*distinct.values()], decode("document", everything[position] or b"", writer)):
            outcome.untrue.append(position)
        if others + bool(found) > 1 or len(distinct) < len(found):
            outcome.double.append(position)
    for position in set(written.passages) | set(written.others):
        if position not in wanted:
            outcome.unexpected.append(f"{position}")
    return outcome


def _tell(passages: Sequence[Passage], document: dict[str, Any]) -> bool:
    """Whether they are the document's text from its beginning to its end."""
    place = document["segment"]["start_char"]
    for passage in passages:
        if passage.start_char != place:
            return False
        place += len(passage.text)
    return bool("".join(passage.text for passage in passages) == document["content"])


def source_of(message: Message) -> Position:
    """The input record of an output record; dead letters and deletions name it in their headers."""
    headers = dict(message.headers() or [])
    if "source.partition" not in headers:
        source = decode("embedding", message.value() or b"")["source"]
        return source["partition"], source["offset"]
    return int(headers["source.partition"] or -1), int(headers["source.offset"] or -1)
