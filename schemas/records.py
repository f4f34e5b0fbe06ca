"""The records of the documents and embeddings topics, as frozen pydantic models.

Every model is strict: a number in a string or an unknown field is an error, and so is
a record whose fields contradict each other. Times are integers, milliseconds since the
Unix epoch (UTC).
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "EMBEDDING_NAMESPACE",
    "Document",
    "Embedding",
    "EmbeddingWithoutVector",
    "PassagePart",
    "Segment",
    "SegmentPart",
    "SourcePosition",
    "embedding_id",
]

EMBEDDING_NAMESPACE = uuid.UUID("72e93588-563c-54cc-94e9-fbf7fdd5741e")
"""Namespace of all embedding ids: the UUIDv5 of ``urn:embedstream:embedding`` in the URL namespace."""

Index = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Long = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Text = Annotated[str, Field(strict=True)]
Sha256 = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}\z")]
Fingerprint = Annotated[str, Field(strict=True, pattern=r"^\S+\z")]


class Record(BaseModel):
    """Base of all records: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Part(Record):
    """Which of several parts this is.

    Attributes:
        index: Number of the part, from 0.
        count: How many parts there are; greater than ``index``.
    """

    index: Index
    count: Count

    @model_validator(mode="after")
    def _index_below_count(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"index {self.index} is not below count {self.count}")
        return self


class Segment(Part):
    """Which part of its document a record of the documents topic holds.

    Attributes:
        start_char: Where the segment starts in the whole document, in characters.
    """

    start_char: Long


class SegmentPart(Part):
    """Which segment of its document an embedding comes from."""


class PassagePart(Part):
    """Which passage of its input record an embedding belongs to."""


class SourcePosition(Record):
    """The input record that something was made from.

    Attributes:
        topic: Name of the topic.
        partition: Number of the partition.
        offset: Offset of the record in its partition.
    """

    topic: Name
    partition: Index
    offset: Long


class Document(Record):
    """A record of the documents topic: a document, or one segment of a large one.

    Attributes:
        id: Id of the document, and the record's key.
        version: When the producer read this version of the document, milliseconds since the epoch.
        content: Text of this segment; may be empty.
        content_hash: SHA-256 of the whole document, 64 lower-case hex digits.
        source: Path or URI that the document was read from.
        segment: Which part of the document this is.
        metadata: Title, author, date, language, source_url and the like.
    """

    id: Name
    version: Long
    content: Text
    content_hash: Sha256
    source: Text
    segment: Segment
    metadata: dict[Text, Text]


class EmbeddingWithoutVector(Record):
    """Everything of a record of the embeddings topic but its vector.

    Attributes:
        id: The record's key; see `embedding_id`.
        document_id: Id of the document that the passage is from.
        document_version: That document's version, milliseconds since the epoch.
        content_hash: SHA-256 of the whole document, 64 lower-case hex digits.
        source: The input record that the passage is from.
        segment: Which segment of its document that record holds.
        passage: Which passage of that record this is.
        start_char: Where the passage starts in the whole document, in characters.
        end_char: Where it ends: the index after its last character.
        text: The passage itself, or None where storing it was switched off.
        token_count: Tokens of the passage as the model saw it, special tokens included.
        model: Name or path of the model.
        model_fingerprint: What identifies the model and its splitter; has no white space.
        precision: Precision the model ran in, such as ``fp16``.
        dim: Dimensions of the vector.
        metadata: The document's metadata.
        embedded_at: When the vector was made, milliseconds since the epoch.
    """

    id: Name
    document_id: Name
    document_version: Long
    content_hash: Sha256
    source: SourcePosition
    segment: SegmentPart
    passage: PassagePart
    start_char: Long
    end_char: Long
    text: Text | None
    token_count: Index
    model: Name
    model_fingerprint: Fingerprint
    precision: Name
    dim: Count
    metadata: dict[Text, Text]
    embedded_at: Long

    @model_validator(mode="after")
    def _start_not_after_end(self) -> Self:
        if self.start_char > self.end_char:
            raise ValueError(f"start_char {self.start_char} is after end_char {self.end_char}")
        return self


class Embedding(EmbeddingWithoutVector):
    """A record of the embeddings topic.

    Attributes:
        vector: The embedding, float32 of shape ``(dim,)``.
    """

    vector: NDArray[np.float32]

    @model_validator(mode="after")
    def _vector_has_dim_floats(self) -> Self:
        if self.vector.dtype != np.float32:
            raise ValueError(f"vector is of {self.vector.dtype}, not float32")
        if self.vector.shape != (self.dim,):
            raise ValueError(f"vector has shape {self.vector.shape} and dim is {self.dim}")
        return self

    def __eq__(self, other: object) -> bool:
        """Compare the fields, and the vectors bit for bit (so that NaN equals NaN)."""
        if not isinstance(other, Embedding):
            return NotImplemented
        return (
            self.model_dump(exclude={"vector"}) == other.model_dump(exclude={"vector"})
            and self.vector.tobytes() == other.vector.tobytes()
        )


def embedding_id(model_fingerprint: str, document_id: str, start_char: int, end_char: int) -> str:
    """Return the id of a passage's embedding: the same passage under the same model has the same id.

    It is the UUIDv5, in `EMBEDDING_NAMESPACE`, of ``FINGERPRINT START END DOCUMENT_ID``, joined by
    single spaces. The document's id comes last because it is the only one that may hold a space.

    Args:
        model_fingerprint: What identifies the model and its splitter; has no white space.
        document_id: Id of the document.
        start_char: Where the passage starts in the whole document, in characters.
        end_char: The index after its last character.
    """
    name = f"{model_fingerprint} {start_char} {end_char} {document_id}".encode()
    # What `uuid.uuid5` does, in a third of its time.
    digest = hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).hexdigest()
    variant = _VARIANTS[digest[16]]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


_NAMESPACE = EMBEDDING_NAMESPACE.bytes
# A UUID's variant is in the two highest bits of its ninth byte, whose first hex digit it changes.
_VARIANTS = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}
