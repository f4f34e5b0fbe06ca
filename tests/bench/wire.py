"""How long an embedding record takes to write and read, against fastavro alone.

    python -m tests.bench.wire

The record has 1,024 dimensions and 2 KiB of text. Rounds of all contestants are interleaved, so that
a machine that slows down slows them all; what is printed is the median round, in microseconds a record.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from io import BytesIO
from itertools import count
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.avro import current
from schemas.records import embedding_id
from schemas.wire import EmbeddingFields, decode_embedding, decode_embedding_fields, encode_embedding

__all__ = ["measure"]

DIM = 1024
FIELDS: EmbeddingFields = {
    "id": embedding_id("8f14e45f" * 8, "capital/ch01", 262_144, 264_192),
    "document_id": "marx/works/1867-c1/ch01.htm",
    "document_version": 1_767_225_600_000,
    "content_hash": "0123456789abcdef" * 4,
    "source": {"topic": "documents", "partition": 3, "offset": 1_234_567},
    "segment": {"index": 1, "count": 3},
    "passage": {"index": 7, "count": 131},
    "start_char": 262_144,
    "end_char": 264_192,
    "text": "The wealth of those societies. ".ljust(32, ".") * 64,
    "token_count": 510,
    "model": "BAAI/bge-large-en-v1.5",
    "model_fingerprint": "8f14e45f" * 8,
    "precision": "fp16",
    "dim": DIM,
    "metadata": {
        "title": "Capital, volume one",
        "author": "Karl Marx",
        "date": "1867",
        "language": "en",
        "source_url": "https://example.org/marx/works/1867-c1/ch01.htm",
    },
    "embedded_at": 1_767_225_700_000,
}


def measure(rounds: int = 31, records: int = 100) -> dict[str, float]:
    """Return the median microseconds a record of each contestant.

    Args:
        rounds: Rounds of each contestant.
        records: Records in a round. Each has offsets in its document that none had before.
    """
    vector = np.random.default_rng(0).standard_normal(DIM, np.float32)
    schema: Any = parse_schema(current("embedding"))
    data = encode_embedding(FIELDS, vector)
    starts = count(262_144, 700)

    def fields() -> EmbeddingFields:
        start = next(starts)
        return {**FIELDS, "start_char": start, "end_char": start + 2048}

    def fastavro_encode() -> None:
        stream = BytesIO()
        schemaless_writer(stream, schema, {**fields(), "vector": vector.tolist()})
        stream.getvalue()

    def fastavro_decode() -> None:
        schemaless_reader(BytesIO(data[10:]), schema, None)

    contestants: dict[str, Callable[[], object]] = {
        "encode, fastavro alone": fastavro_encode,
        "encode_embedding": lambda: encode_embedding(fields(), vector),
        "decode, fastavro alone": fastavro_decode,
        "decode_embedding": lambda: decode_embedding(data),
        "decode_embedding_fields": lambda: decode_embedding_fields(data),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            for _ in range(records):
                run()
            times[name].append((time.perf_counter() - start) / records * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


if __name__ == "__main__":
    for name, microseconds in measure().items():
        print(f"{name:24} {microseconds:7.1f} µs")
