"""Documents and embeddings for property tests."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.records import Document
from schemas.wire import EmbeddingFields

INT = st.integers(0, 2**31 - 1)
LONG = st.integers(0, 2**63 - 1)
TIME = st.integers(0, 253_402_300_799_999)  # to the end of the year 9999, where datetime ends
NAME = st.text(min_size=1)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
METADATA = st.dictionaries(st.text(), st.text(), max_size=5)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def parts(draw: st.DrawFn) -> dict[str, int]:
    """Draw an index below a count."""
    count = draw(st.integers(1, 2**31 - 1))
    return {"index": draw(st.integers(0, count - 1)), "count": count}


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Draw a document record."""
    return Document.model_validate(
        {
            "id": draw(NAME),
            "version": draw(TIME),
            "content": draw(st.text()),
            "content_hash": draw(SHA256),
            "source": draw(st.text()),
            "segment": {**draw(parts()), "start_char": draw(LONG)},
            "metadata": draw(METADATA),
        }
    )


@st.composite
def embeddings(draw: st.DrawFn) -> tuple[EmbeddingFields, NDArray[np.float32]]:
    """Draw an embedding record: its fields, and its vector of shape (dim,)."""
    vector = draw(hnp.arrays(np.float32, st.integers(1, 70), elements=FINITE))
    start, end = sorted([draw(LONG), draw(LONG)])
    fields: Any = {
        "id": draw(NAME),
        "document_id": draw(NAME),
        "document_version": draw(TIME),
        "content_hash": draw(SHA256),
        "source": {"topic": draw(NAME), "partition": draw(INT), "offset": draw(LONG)},
        "segment": draw(parts()),
        "passage": draw(parts()),
        "start_char": start,
        "end_char": end,
        "text": draw(st.none() | st.text()),
        "token_count": draw(INT),
        "model": draw(NAME),
        "model_fingerprint": draw(st.text("0123456789abcdef", min_size=1)),
        "precision": draw(st.sampled_from(["fp32", "bf16", "fp16"])),
        "dim": vector.size,
        "metadata": draw(METADATA),
        "embedded_at": draw(TIME),
    }
    return fields, vector
