"""Output topics written by hand, and what readers must keep of them, worked out in memory with fastavro."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Message, Producer
from numpy.typing import NDArray

from embedstream.kafka import make_producer
from schemas.avro import confluent_header
from schemas.dead_letter import DeadLetter, Reason
from schemas.deletion import passed_on_headers
from schemas.records import Document, Segment, SourcePosition, embedding_id
from schemas.wire import EmbeddingFields, encode_document, encode_embedding
from tests.kafka import Topics
from tests.oracle import decode, source_of

__all__ = ["DIM", "Outputs", "newest_rows", "unit_vector"]

DIM = 8


def unit_vector(seed: str, dim: int = DIM) -> NDArray[np.float32]:
    """A unit vector, float32 of shape (dim,), that only this text has."""
    digest = hashlib.sha256(seed.encode()).digest()
    raw = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(size=dim).astype(np.float32)
    vector: NDArray[np.float32] = raw / np.linalg.norm(raw)
    return vector


@dataclass
class Outputs:
    """Writes embeddings, deletions and dead letters as a consumer daemon writes them.

    With a `schema_id`, embeddings are framed as with a registry.
    """

    topics: Topics
    partitions: int = 3
    dim: int = DIM
    model: str = "test"
    fingerprint: str = "f00d"
    schema_id: int | None = None
    producer: Producer = field(init=False)
    _offsets: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.producer = make_producer(self.topics.kafka)

    def embed(
        self,
        document: str,
        version: int = 1,
        passages: int = 2,
        *,
        segment: tuple[int, int] = (0, 1),
        offset: int | None = None,
        only: Iterable[int] | None = None,
        topic: str | None = None,
    ) -> tuple[int, int]:
        """Write the passages of an input record, those in `only` if named; return its position."""
        source = self._source(document, offset)
        for index in range(passages) if only is None else only:
            start = 100 * (1000 * segment[0] + index)
            text = f"{document} {version} {segment[0]} {index}"
            fields: EmbeddingFields = {
                "id": embedding_id(self.fingerprint, document, start, start + 100),
                "document_id": document,
                "document_version": version,
                "content_hash": hashlib.sha256(document.encode()).hexdigest(),
                "source": {
                    "topic": topic or self.topics.documents,
                    "partition": source[0],
                    "offset": source[1],
                },
                "segment": {"index": segment[0], "count": segment[1]},
                "passage": {"index": index, "count": passages},
                "start_char": start,
                "end_char": start + 100,
                "text": None if index % 5 == 4 else text,
                "token_count": 3,
                "model": self.model,
                "model_fingerprint": self.fingerprint,
                "precision": "fp32",
                "dim": self.dim,
                "metadata": {"title": document, "näme": "ü"} if index % 2 else {},
                "embedded_at": 1_700_000_000_000 + version,
            }
            value = encode_embedding(fields, unit_vector(text + self.fingerprint, self.dim))
            if self.schema_id is not None:
                value = confluent_header(self.schema_id) + value[10:]
            self._produce(self.topics.embeddings, value, fields["id"].encode(), source[0], [])
        return source

    def delete(self, document: str, version: int) -> None:
        """Write a deletion that was passed on."""
        source = self._source(document, None)
        headers = passed_on_headers(version, self._position(source))
        self._produce(self.topics.embeddings, None, document.encode(), source[0], headers)

    def bury(self, document: str, version: int, segment: tuple[int, int] = (0, 1)) -> tuple[int, int]:
        """Write a dead letter; return the position of its input record."""
        source = self._source(document, None)
        letter = DeadLetter(
            error_class=Reason.ENCODE_FAILED,
            error_message="the model failed",
            source=self._position(source),
            model=self.model,
            model_fingerprint=self.fingerprint,
            document_id=document,
            document_version=version,
        )
        value = encode_document(
            Document(
                id=document,
                version=version,
                content="x",
                content_hash="0" * 64,
                source="",
                segment=Segment(index=segment[0], count=segment[1], start_char=0),
                metadata={},
            )
        )
        self._produce(self.topics.dead_letters, value, document.encode(), source[0], letter.to_headers())
        return source

    def flush(self) -> None:
        assert self.producer.flush(60) == 0

    def _source(self, document: str, offset: int | None) -> tuple[int, int]:
        partition = hashlib.sha256(document.encode()).digest()[0] % self.partitions
        if offset is None:
            offset = self._offsets[partition]
            self._offsets[partition] += 1
        return partition, offset

    def _position(self, source: tuple[int, int]) -> SourcePosition:
        return SourcePosition(topic=self.topics.documents, partition=source[0], offset=source[1])

    def _produce(
        self, topic: str, value: bytes | None, key: bytes, partition: int, headers: list[Any]
    ) -> None:
        while True:
            try:
                self.producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self.producer.poll(0.1)


def newest_rows(
    outputs: Iterable[Message], dead_letters: Iterable[Message], fingerprint: str = "f00d"
) -> dict[str, dict[str, Any]]:
    """The records that readers keep, by their ids."""
    versions: dict[str, dict[int, dict[tuple[int, int], dict[int, Any]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    deletions: dict[str, tuple[int, int]] = {}
    dead: dict[tuple[str, int], set[int]] = defaultdict(set)
    for message in outputs:
        if message.value() is None:
            name = (message.key() or b"").decode()
            version = int(dict(message.headers() or [])["document.version"] or 0)
            deletions[name] = max(deletions.get(name, (-1, -1)), (version, source_of(message)[1]))
            continue
        record = decode("embedding", message.value() or b"")
        if record["model_fingerprint"] == fingerprint:
            source = (record["source"]["partition"], record["source"]["offset"])
            of_version = versions[record["document_id"]][record["document_version"].timestamp()]
            of_version[source].setdefault(record["passage"]["index"], record)
    for message in dead_letters:
        record = decode("document", message.value() or b"")
        dead[record["id"], record["version"].timestamp()].add(record["segment"]["index"])
    kept: dict[str, dict[str, Any]] = {}
    for name, by_version in versions.items():
        for version, by_source in sorted(by_version.items(), reverse=True):
            segments: dict[int, tuple[int, list[Any]]] = {}
            count = 0
            for (_, offset), passages in by_source.items():
                first = next(iter(passages.values()))
                count = first["segment"]["count"]
                if len(passages) == first["passage"]["count"]:
                    index = first["segment"]["index"]
                    segments[index] = max(segments.get(index, (-1, [])), (offset, [*passages.values()]))
            if not segments or len(segments.keys() | dead[name, version]) < count:
                continue
            newest = (round(version * 1000), max(offset for offset, _ in segments.values()))
            if newest > deletions.get(name, (-1, -1)):
                kept |= {each["id"]: each for _, found in segments.values() for each in found}
            break
    return kept
