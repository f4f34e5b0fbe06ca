"""Writes embedding records: the bytes that fastavro would write, some twenty times sooner.

    model = EmbeddingWriter("a-model", "f00d", "bf16", dim=384, embedded_at=1_767_225_700_000)
    document = model.document(identity, digest, ("documents", 3, 1234), segment, passages=1, metadata=...)
    value = document.passage(identifier, 0, (0, 4), "Text", 3, vector)

What all records of a model, or of a document, have in common is written once. fastavro spends most of its
time on the single floats; in Avro an array of floats is a count, the raw little-endian floats and a zero, so
the last field is a copy of its memory. The values are trusted: only what can't be written is found out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.avro import single_object_header
from schemas.avro_bytes import long, string

__all__ = ["SINGLE_OBJECT_HEADER", "DocumentWriter", "EmbeddingWriter"]

SINGLE_OBJECT_HEADER = single_object_header("embedding")
"""What a record begins with where there is no registry."""

_FLOAT32 = np.dtype(np.float32)
_LITTLE_ENDIAN = np.dtype("<f4")
# Not through the cache: every record has another.
_unique_long = long.__wrapped__
_NULL, _PRESENT, _END = long(0), long(1), long(0)


class EmbeddingWriter:
    """What the records of one model have in common."""

    def __init__(
        self,
        model: str,
        model_fingerprint: str,
        precision: str,
        *,
        dim: int,
        embedded_at: int,
        header: bytes = SINGLE_OBJECT_HEADER,
    ) -> None:
        """Writes the model's fields; `schemas.records.Embedding` says what each is.

        `header` is what each record begins with, and names the schema.
        """
        self.dim = dim
        self.header = header
        self.model = string(model) + string(model_fingerprint) + string(precision) + long(dim)
        # The vector's own count stands right behind.
        self.end = long(embedded_at) + long(dim)
        self._places: dict[tuple[str, int], bytes] = {}

    def document(
        self,
        identity: bytes,
        content_hash: bytes,
        source: tuple[str, int, int],
        segment: bytes,
        *,
        passages: int,
        metadata: bytes,
    ) -> DocumentWriter:
        """Write what the passages of one input record have in common.

        Args:
            identity: The document's id and version, in Avro, as `schemas.document_parts` has them.
            content_hash: The document's, in Avro.
            source: Topic, partition and offset of the input record.
            segment: Index and count, in Avro.
            passages: How many there are in the input record.
            metadata: The document's, in Avro.

        Raises:
            OverflowError: A number is negative or more than 63 bits.
        """
        topic, partition, offset = source
        place = self._places.get((topic, partition))
        if place is None:
            place = self._places[topic, partition] = string(topic) + long(partition)
        before = b"".join((identity, content_hash, place, _unique_long(offset), segment))
        after = self.model + metadata + self.end
        return DocumentWriter(self.header, before, long(passages), after, self.dim)


class DocumentWriter:
    """Writes the records of one input record's passages."""

    __slots__ = ("_after", "_before", "_count", "_dim", "_header")

    def __init__(self, header: bytes, before: bytes, count: bytes, after: bytes, dim: int) -> None:
        self._header = header
        self._before = before
        self._count = count
        self._after = after
        self._dim = dim

    def passage(
        self,
        identifier: bytes,
        index: int,
        chars: tuple[int, int],
        text: str | None,
        token_count: int,
        vector: NDArray[np.float32],
    ) -> bytes:
        """Return the record of a passage.

        Args:
            identifier: The embedding's id, UTF-8.
            index: Of the passage in its input record.
            chars: Where it starts and ends in the whole document.
            text: The passage, or None where it is not stored.
            token_count: As the model saw it.
            vector: float32 of shape ``(dim,)``, with at least one dimension.

        Raises:
            ValueError: The vector's type or shape is another. Else as in `EmbeddingWriter.document`.
        """
        if vector.dtype != _FLOAT32 or vector.shape != (self._dim,) or not self._dim:
            raise ValueError(f"vector is {vector.dtype}{list(vector.shape)}, not float32[{self._dim}]")
        return b"".join(
            (
                self._header,
                long(len(identifier)),
                identifier,
                self._before,
                long(index),
                self._count,
                long(chars[0]),
                long(chars[1]),
                _NULL if text is None else _PRESENT + string(text),
                long(token_count),
                self._after,
                (vector if _FLOAT32 == _LITTLE_ENDIAN else vector.astype(_LITTLE_ENDIAN)).tobytes(),
                _END,
            )
        )
