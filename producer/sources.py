"""The kinds of files that documents come from; each is one function from a stream to raw documents.

A new kind is a function and a suffix in `SOURCES`. What it finds wrong with one document it yields as a
refusal and goes on; what makes the rest of the file unreadable it raises.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import zstandard

from producer.compression import COMPRESSIONS, open_stream
from producer.documents import MISSING, RawDocument
from producer.front_matter import split_front_matter
from producer.refusals import Reason, Refusal, RefusedError, printable
from producer.walk import FoundFile

__all__ = ["MAX_DOCUMENT_BYTES", "SOURCES", "Source", "is_known", "read"]

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""The most that one document may take in its file, decompressed: it bounds the memory of the whole run."""

# Nearly every document is smaller, and a read for the most that one may be costs as much as the file itself.
_FIRST_READ = 64 * 1024
_BOM = b"\xef\xbb\xbf"


class Source(Protocol):
    """A kind of file."""

    def __call__(self, stream: BinaryIO, file: FoundFile) -> Iterator[RawDocument | Refusal]:
        """Yield the documents of a file in order.

        Args:
            stream: The file's bytes, decompressed.
            file: Where they come from.

        Raises:
            RefusedError: The file, or what is left of it, can't be read as this kind.
        """


def is_known(name: str) -> bool:
    """Return whether there is a source for a file of this name."""
    return name.endswith(".json") or _kind(name) in SOURCES


def read(file: FoundFile, on_bytes: Callable[[int], None]) -> Iterator[RawDocument | Refusal]:
    """Yield the documents of one file, and a refusal for each that can't be read; a bad file raises nothing.

    Args:
        file: Of a kind that `is_known`.
        on_bytes: Told how many bytes were taken from the disk, each time that some were.
    """
    try:
        with open_stream(file.path, on_bytes) as stream:
            yield from SOURCES[_kind(file.path)](stream, file)
    except RefusedError as error:
        yield error.at(file.path)
    except FileNotFoundError:
        yield Refusal(Reason.VANISHED, printable(file.path), "it was there when its folder was read")
    except EOFError:
        yield Refusal(Reason.TRUNCATED, printable(file.path), "the compressed data ends too early")
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        yield Refusal(Reason.CORRUPT, printable(file.path), f"it can't be decompressed: {error}")
    except OSError as error:
        yield Refusal(Reason.UNREADABLE, printable(file.path), error.strerror or str(error))


def read_json(stream: BinaryIO, file: FoundFile) -> Iterator[RawDocument | Refusal]:
    """One document a file: a JSON object with `content`."""
    yield _from_json(_whole(stream).removeprefix(_BOM), file, None)


def read_json_lines(stream: BinaryIO, file: FoundFile) -> Iterator[RawDocument | Refusal]:
    """One document a line, each a JSON object with `content`; empty lines are passed over."""
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        try:
            if len(line) > MAX_DOCUMENT_BYTES:
                _skip_line(stream, line)
                raise RefusedError(Reason.TOO_LARGE, f"the line is longer than {MAX_DOCUMENT_BYTES} bytes")
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.isspace():
                yield _from_json(line, file, number)
        except RefusedError as error:
            yield error.at(f"{file.path}:{number}")


def read_markdown(stream: BinaryIO, file: FoundFile) -> Iterator[RawDocument | Refusal]:
    """One document a file: the text below its YAML front matter, whose fields become the document's."""
    fields, body = split_front_matter(_text(_whole(stream).removeprefix(_BOM)))
    yield RawDocument(body, fields, printable(file.path), file.relative)


def read_text(stream: BinaryIO, file: FoundFile) -> Iterator[RawDocument | Refusal]:
    """One document a file: all of it."""
    text = _text(_whole(stream).removeprefix(_BOM))
    yield RawDocument(text, {}, printable(file.path), file.relative)


SOURCES: dict[str, Source] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".md": read_markdown,
    ".txt": read_text,
}
"""The sources by the suffix of the files that they read, which `.gz` or `.zst` may follow."""


def _kind(name: str) -> str:
    stem, dot, suffix = name.lower().rpartition(".")
    if dot + suffix in COMPRESSIONS:
        _, dot, suffix = stem.rpartition(".")
    return dot + suffix


def _whole(stream: BinaryIO) -> bytes:
    data = stream.read(_FIRST_READ)
    if len(data) == _FIRST_READ:
        data += stream.read(MAX_DOCUMENT_BYTES + 1 - _FIRST_READ)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"the document is longer than {MAX_DOCUMENT_BYTES} bytes")
    return data


def _skip_line(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_FIRST_READ)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.NOT_UTF8, f"byte {error.start} is not UTF-8") from None


def _from_json(data: bytes, file: FoundFile, line: int | None) -> RawDocument:
    """Parse one JSON object.

    From the decoded text, because json guesses UTF-16 from bytes, and lets half of a surrogate pair through.
    """
    text = _text(data)
    try:
        fields = json.loads(text)
    except RecursionError:
        raise RefusedError(Reason.NESTED_TOO_DEEP, "the JSON is nested too deep") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise RefusedError(Reason.NOT_JSON, f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(Reason.NOT_AN_OBJECT, "the JSON is not an object")
    content = fields.pop("content", MISSING)
    return RawDocument(content, fields, printable(file.path), file.relative, line)
