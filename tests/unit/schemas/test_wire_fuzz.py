"""Whatever the bytes, a reader returns a valid record or raises WireError; anything else fails here."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.avro import current, fingerprint
from schemas.records import Document
from schemas.wire import (
    EmbeddingFields,
    WireError,
    decode_document,
    decode_embedding,
    decode_embedding_fields,
    encode_document,
    encode_embedding,
)
from tests.unit.schemas.strategies import documents, embeddings

CONFLUENT = b"\x00\x00\x00\x00\x01"
HEADERS = [b"\xc3\x01" + fingerprint(current(name)) for name in ("document", "embedding")]


def decode_all(data: bytes) -> None:
    """Read the bytes as everything they could be; the two readers of embeddings must agree."""
    with contextlib.suppress(WireError):
        assert isinstance(decode_document(data), Document)
    outcomes: list[Any] = []
    for decode in (decode_embedding, decode_embedding_fields):
        try:
            outcomes.append(decode(data))
        except WireError as error:
            outcomes.append(error.reason)
    whole, fields = outcomes
    if isinstance(whole, str):
        assert fields == whole
    else:
        assert whole.model_dump(exclude={"vector"}) == fields


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    decode_all(data)


@settings(max_examples=500)
@given(st.sampled_from([*HEADERS, CONFLUENT]), st.binary(max_size=300))
def test_arbitrary_bytes_after_a_good_header(header: bytes, data: bytes) -> None:
    decode_all(header + data)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw what becomes of some bytes when a few spans of them are overwritten, cut out or put in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        data = data[:start] + draw(st.binary(max_size=12)) + data[start + length :]
    return data


@settings(max_examples=500)
@given(st.data(), documents())
def test_a_damaged_document(data: st.DataObject, document: Document) -> None:
    decode_all(data.draw(damaged(encode_document(document))))


@settings(max_examples=500)
@given(st.data(), embeddings())
def test_a_damaged_embedding(
    data: st.DataObject, embedding: tuple[EmbeddingFields, NDArray[np.float32]]
) -> None:
    decode_all(data.draw(damaged(encode_embedding(*embedding))))
