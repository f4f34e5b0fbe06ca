"""What must be in the topics, worked out from them with fastavro alone: nothing of the product is used."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Message

__all__ = ["Outcome", "check_exactly_once", "decode", "source_of"]

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
Position = tuple[int, int]


def _schema(name: str) -> Any:
    return fastavro.parse_schema(json.loads((SCHEMAS / f"{name}.avsc").read_text()))


_PARSED = {name: _schema(name) for name in ("document", "embedding")}


def decode(name: str, value: bytes) -> dict[str, Any]:
    """A record in Avro single-object encoding: two magic bytes, eight of fingerprint, the datum."""
    assert value[:2] == b"\xc3\x01"
    record = fastavro.schemaless_reader(io.BytesIO(value[10:]), _PARSED[name], None)
    assert isinstance(record, dict)
    return record


@dataclass
class Outcome:
    """What was found for the input records below the committed offsets.

    Attributes:
        reasons: the reason of each dead letter, by the position of its input.
    """

    inputs: int = 0
    embeddings: int = 0
    dead_letters: int = 0
    deletions: int = 0
    missing: list[Position] = field(default_factory=list)
    double: list[Position] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    reasons: dict[Position, str] = field(default_factory=dict)

    @property
    def is_exactly_once(self) -> bool:
        return not (self.missing or self.double or self.unexpected or self.disordered)


def check_exactly_once(
    inputs: Iterable[Message],
    outputs: Iterable[Message],
    dead_letters: Iterable[Message],
    committed: dict[int, int],
) -> Outcome:
    """Checks input set = output set plus dead letters, once each, in order within each partition.

    Args:
        inputs: every record of the documents topic.
        outputs: every record of the embeddings topic that a read_committed reader sees.
        dead_letters: likewise.
        committed: the group's offset of each partition; what lies after is not looked at.
    """
    outcome = Outcome()
    everything = {(m.partition() or 0, m.offset() or 0) for m in inputs}
    wanted = {(partition, offset) for partition, offset in everything if offset < committed.get(partition, 0)}
    outcome.inputs = len(wanted)
    passages: dict[Position, list[tuple[int, int]]] = defaultdict(list)
    others: Counter[Position] = Counter()
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for message in outputs:
        if message.value() is None:
            others[source_of(message)] += 1
            outcome.deletions += 1
            continue
        record = decode("embedding", message.value() or b"")
        position = (record["source"]["partition"], record["source"]["offset"])
        passages[position].append((record["passage"]["index"], record["passage"]["count"]))
        outcome.embeddings += 1
        place = (message.partition() or 0, position[0])
        here = (position[1], record["passage"]["index"])
        if last.get(place, (-1, -1)) >= here:
            outcome.disordered.append(f"{place}: {here} after {last[place]}")
        last[place] = here
    for message in dead_letters:
        others[source_of(message)] += 1
        reason = dict(message.headers() or [])["error.class"]
        outcome.reasons[source_of(message)] = reason.decode() if isinstance(reason, bytes) else str(reason)
        outcome.dead_letters += 1
    for position in wanted:
        found = sorted(passages.get(position, []))
        whole = bool(found) and found == [(index, found[0][1]) for index in range(found[0][1])]
        if others[position] + whole == 0:
            outcome.missing.append(position)
        if others[position] + bool(found) > 1 or len(set(found)) < len(found):
            outcome.double.append(position)
    for position in set(passages) | set(others):
        if position not in wanted:
            outcome.unexpected.append(f"{position}")
    return outcome


def source_of(message: Message) -> Position:
    """The input record that a dead letter or a deletion names in its headers."""
    headers = dict(message.headers() or [])
    return int(headers["source.partition"] or -1), int(headers["source.offset"] or -1)
