"""Text: Markdown with its YAML front matter, and plain text; each with the metadata that lies beside it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from producer.documents import RawDocument
from producer.files import opened
from producer.front_matter import split_front_matter
from producer.refusals import Reason, Refusal, RefusedError, printable
from producer.sidecars import MAX_BYTES, parse
from producer.source import ReadingRules, as_text, whole
from producer.walk import FoundFile

__all__ = ["read_markdown", "read_text"]


def read_markdown(stream: BinaryIO, file: FoundFile, _: ReadingRules) -> Iterator[RawDocument | Refusal]:
    """One document a file: the text below its YAML front matter, whose fields become the document's."""
    fields, body = split_front_matter(as_text(whole(stream)))
    yield _document(body, fields, file)


def read_text(stream: BinaryIO, file: FoundFile, _: ReadingRules) -> Iterator[RawDocument | Refusal]:
    """One document a file: all of it."""
    yield _document(as_text(whole(stream)), {}, file)


def _document(content: str, fields: dict[str, object], file: FoundFile) -> RawDocument:
    """Add the fields of the sidecar, which are exact where front matter is what somebody typed."""
    if file.sidecar:
        fields |= parse(_sidecar(file.sidecar))
    return RawDocument(content, fields, printable(file.path), file.relative)


def _sidecar(path: str) -> bytes:
    try:
        with opened(path, lambda _: None) as file:
            return io.BufferedReader(file.raw).read(MAX_BYTES + 1)
    except OSError as error:
        told = f"its metadata file {printable(path)} can't be read: {error.strerror or error}"
        # Not as bad metadata, which stays as it is: another time it may be readable.
        raise RefusedError(Reason.UNREADABLE, told) from None
