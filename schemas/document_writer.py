"""Document records as bytes, put together from their parts: what `encode_document` writes, much sooner.

    value = before_version(b"id") + version_bytes(1234) + segment_after_version(...)

The version is left out because it is known last: when a record is about to be sent.
"""

from __future__ import annotations

from functools import lru_cache

from schemas.avro import single_object_header
from schemas.avro_bytes import long

__all__ = ["SINGLE_OBJECT_HEADER", "before_version", "segment_after_version", "version_bytes"]

SINGLE_OBJECT_HEADER = single_object_header("document")
"""What a record begins with where there is no registry."""


def before_version(key: bytes, header: bytes = SINGLE_OBJECT_HEADER) -> bytes:
    """Return what stands before the version in every record of a document, given its id in UTF-8.

    `header` is what each record begins with, and names the schema.
    """
    return header + long(len(key)) + key


@lru_cache(maxsize=16)
def version_bytes(version: int) -> bytes:
    """Return a version, milliseconds since the epoch; raises OverflowError if it is negative or too large."""
    # Many documents are sent in a millisecond, which then never comes again.
    return long.__wrapped__(version)


def segment_after_version(
    content: bytes,
    content_hash: str,
    source: bytes,
    segment: tuple[int, int, int],
    metadata: bytes,
) -> bytes:
    """Return what stands behind the version in the record of one segment. The parts are trusted.

    Args:
        content: Text of the segment, UTF-8.
        content_hash: SHA-256 of the whole document, 64 hex digits.
        source: Path or URI, as an Avro string.
        segment: Index, count, and where the segment starts in the document, in characters.
        metadata: The metadata as an Avro map (`string_map`).
    """
    index, count, start_char = segment
    return b"".join(
        (
            long(len(content)),
            content,
            b"\x80\x01",  # the length of the hash: 64
            content_hash.encode(),
            source,
            long(index),
            long(count),
            long(start_char),
            metadata,
        )
    )
