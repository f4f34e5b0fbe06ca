"""What every kind of file has in common: the interface of a source, and how fields become a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from embedstream.settings import ProducerSettings
from producer.documents import RawDocument
from producer.refusals import Reason, Refusal, RefusedError, printable
from producer.selection import ALL, Selection
from producer.walk import FoundFile

__all__ = ["BOM", "MAX_DOCUMENT_BYTES", "ReadingRules", "Source", "as_text", "document_of", "whole"]

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""The most that one document may take in its file, decompressed: it bounds the memory of the whole run."""

BOM = b"\xef\xbb\xbf"

# Nearly every document is smaller, and a read for the most that one may be costs as much as the file itself.
_FIRST_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How documents are made of files; it may cross to another process.

    Attributes:
        settings: What the fields are called, and the limits.
        selection: Which documents are wanted.
    """

    settings: ProducerSettings = field(default_factory=ProducerSettings)
    selection: Selection = ALL


class Source(Protocol):
    """Reads one kind of file."""

    def __call__(
        self, stream: BinaryIO, file: FoundFile, rules: ReadingRules, /
    ) -> Iterator[RawDocument | Refusal]:
        """Yield the documents of a file in order.

        Args:
            stream: The file's bytes, decompressed. Parquet's can be sought in.
            file: Where they come from.
            rules: What the fields are called, the limits, and which documents of many to yield.

        Raises:
            RefusedError: The file, or what is left of it, can't be read as this kind.
        """


def whole(stream: BinaryIO) -> bytes:
    """Return all of a file that is one document, without a byte order mark.

    Raises:
        RefusedError: It is too large for a document.
    """
    data = stream.read(_FIRST_READ)
    if len(data) == _FIRST_READ:
        data += stream.read(MAX_DOCUMENT_BYTES + 1 - _FIRST_READ)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"the document is longer than {MAX_DOCUMENT_BYTES} bytes")
    return data.removeprefix(BOM)


def as_text(data: bytes) -> str:
    """Return bytes as the UTF-8 that they must be.

    Raises:
        RefusedError: They are not.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None


def document_of(
    fields: dict[str, object], file: FoundFile, rules: ReadingRules, line: int | None = None
) -> RawDocument:
    """Return the document whose content is one of some fields; the others are its metadata.

    Args:
        fields: By name; the content is taken out.
        file: Where they come from.
        rules: Which field is the content.
        line: Number of the line or row in a file of many.

    Raises:
        RefusedError: There is no content.
    """
    name = rules.settings.content_field
    if name not in fields:
        raise RefusedError(Reason.NO_CONTENT, f"has no field `{name}`")
    content = fields.pop(name)
    return RawDocument(content, fields, printable(file.path), file.relative, line)
