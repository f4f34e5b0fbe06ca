from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.records import EMBEDDING_NAMESPACE, Document, Embedding, embedding_id
from tests.unit.schemas.strategies import LONG, NAME

DOCUMENT: dict[str, Any] = {
    "id": "capital/ch01",
    "version": 1_767_225_600_000,
    "content": "The wealth of those societies",
    "content_hash": "0123456789abcdef" * 4,
    "source": "capital/ch01.md",
    "segment": {"index": 1, "count": 3, "start_char": 262_144},
    "metadata": {"title": "Capital"},
}
EMBEDDING: dict[str, Any] = {
    "id": "c0c5a5a1-8b0b-5f0e-9d55-0d1c2b7c7f3e",
    "document_id": "capital/ch01",
    "document_version": 1_767_225_600_000,
    "content_hash": "0123456789abcdef" * 4,
    "source": {"topic": "documents", "partition": 3, "offset": 42},
    "segment": {"index": 1, "count": 3},
    "passage": {"index": 0, "count": 2},
    "start_char": 262_144,
    "end_char": 262_173,
    "text": "The wealth of those societies",
    "token_count": 7,
    "model": "BAAI/bge-large-en-v1.5",
    "model_fingerprint": "8f14e45f",
    "precision": "fp16",
    "dim": 3,
    "metadata": {},
    "embedded_at": 1_767_225_700_000,
    "vector": np.array([0.5, -1.0, 2.0], np.float32),
}


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"version": -1},
        {"version": 2**63},
        {"version": True},
        {"version": "1767225600000"},
        {"content": None},
        {"content_hash": "0123456789abcdef"},
        {"content_hash": "0123456789ABCDEF" * 4},
        {"content_hash": "0123456789abcdef" * 4 + "\n"},
        {"segment": {"index": 3, "count": 3, "start_char": 0}},
        {"segment": {"index": -1, "count": 3, "start_char": 0}},
        {"segment": {"index": 0, "count": 0, "start_char": 0}},
        {"segment": {"index": 0, "count": 1, "start_char": -1}},
        {"metadata": {"year": 1867}},
        {"language": "en"},
    ],
    ids=str,
)
def test_a_document_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    Document.model_validate(DOCUMENT)
    with pytest.raises(ValidationError):
        Document.model_validate(DOCUMENT | change)


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"topic": "", "partition": 0, "offset": 0}},
        {"source": {"topic": "documents", "partition": -1, "offset": 0}},
        {"source": {"topic": "documents", "partition": 0, "offset": -1}},
        {"passage": {"index": 2, "count": 2}},
        {"start_char": 262_174},
        {"model_fingerprint": "two words"},
        {"token_count": -1},
        {"dim": 4},
        {"vector": np.zeros(4, np.float32)},
        {"vector": np.zeros((3, 1), np.float32)},
        {"vector": np.zeros(3, np.float64)},
        {"vector": [0.5, -1.0, 2.0]},
    ],
    ids=str,
)
def test_an_embedding_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    Embedding.model_validate(EMBEDDING)
    with pytest.raises(ValidationError):
        Embedding.model_validate(EMBEDDING | change)


def test_a_record_is_frozen() -> None:
    document = Document.model_validate(DOCUMENT)
    with pytest.raises(ValidationError):
        document.content = ""  # type: ignore[misc]


def test_embeddings_are_compared_by_fields_and_vector() -> None:
    embedding = Embedding.model_validate(EMBEDDING)
    assert embedding == Embedding.model_validate(EMBEDDING | {"vector": EMBEDDING["vector"].copy()})
    assert embedding != Embedding.model_validate(EMBEDDING | {"vector": -EMBEDDING["vector"]})
    assert embedding != Embedding.model_validate(EMBEDDING | {"token_count": 8})
    assert embedding != EMBEDDING


def test_the_id_of_an_embedding_never_changes() -> None:
    assert uuid.uuid5(uuid.NAMESPACE_URL, "urn:embedstream:embedding") == EMBEDDING_NAMESPACE
    assert embedding_id("8f14e45f", "capital/ch01", 0, 29) == "1e2a015a-d005-5b2f-8ed2-2a033b7c939c"


FINGERPRINT = st.text("0123456789abcdef", min_size=1)
PASSAGE = st.tuples(FINGERPRINT, NAME | st.from_regex(r"\A[0-9 ]+\Z"), LONG, LONG)


@given(PASSAGE, PASSAGE)
def test_two_passages_have_the_same_id_only_if_they_are_the_same(
    one: tuple[str, str, int, int], other: tuple[str, str, int, int]
) -> None:
    assert (embedding_id(*one) == embedding_id(*other)) == (one == other)
    assert uuid.UUID(embedding_id(*one)).version == 5
