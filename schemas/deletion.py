"""Deletions: records with a null value under a document's id, told by their headers.

In the documents topic a deletion has the header ``document.version``: passages of that version and
of older ones are deleted. The consumer passes it on to the embeddings topic, with ``source.topic``,
``source.partition`` and ``source.offset`` naming the record it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.headers import Headers, read_headers, read_number, read_source, source_headers
from schemas.records import SourcePosition

__all__ = ["deletion_headers", "deletion_source", "deletion_version", "passed_on_headers"]


def deletion_headers(version: int) -> Headers:
    """Return the headers of a deletion in the documents topic.

    Args:
        version: Version of the deletion, milliseconds since the epoch, at least 0.
    """
    return [("document.version", str(version).encode())]


def passed_on_headers(version: int, source: SourcePosition) -> Headers:
    """Return the headers of a deletion in the embeddings topic.

    Args:
        version: Version of the deletion, milliseconds since the epoch, at least 0.
        source: Where in the documents topic the deletion is.
    """
    return deletion_headers(version) + source_headers(source)


def deletion_version(headers: Sequence[tuple[str, bytes | str | None]] | None) -> int | None:
    """Return a deletion's version, or None where its headers have none that can be read."""
    return read_number(read_headers(headers), "document.version")


def deletion_source(headers: Sequence[tuple[str, bytes | str | None]] | None) -> SourcePosition | None:
    """Return where a passed-on deletion comes from, or None where its headers don't say."""
    return read_source(read_headers(headers))
