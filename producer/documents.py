"""From the raw fields of a file or a line to a document whose records only lack their version.

A NUL in a text is kept: JSON, Avro, Kafka and tokenizers all take it, and dropping it would move every
character behind it. (Tokenizers of the BERT family leave it out of the passage's tokens themselves.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from producer.refusals import Reason, RefusedError
from producer.segments import cut
from schemas.avro_bytes import string, string_map
from schemas.document_writer import segment_after_version

__all__ = [
    "MAX_ID_BYTES",
    "MAX_METADATA_BYTES",
    "PreparedDocument",
    "RawDocument",
    "ReadDocument",
    "check",
    "hash_of_metadata",
    "prepare",
]

MAX_METADATA_BYTES = 32 * 1024
"""The most that a document's metadata takes, names and values in UTF-8: every passage carries it."""

MAX_ID_BYTES = 8 * 1024
"""The most that an id takes in UTF-8: longer than any path, and far below a message's size."""

# A prefix of fewer digits, or another alphabet, may be anything: such a value is metadata.
_HEX_PREFIX = re.compile(r"[0-9a-fA-F]{16,64}")
_JSON = json.JSONEncoder(ensure_ascii=False)


class RawDocument(NamedTuple):
    """What a source found, before anything about it was checked; a tuple, since there are millions.

    Attributes:
        content: The text, or whatever stands in its place.
        fields: The other fields, by name.
        source: Path of the file, as text.
        relative: The same path relative to the root that was given: the id of a document that names none.
        line: Number of the line in a file that holds many documents, from 1; None in a file that is one.
    """

    content: object
    fields: Mapping[str, object]
    source: str
    relative: str
    line: int | None = None

    @property
    def where(self) -> str:
        """Where a person finds the document."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


class ReadDocument(NamedTuple):
    """A document that can be sent.

    Attributes:
        id: Its id, never empty.
        content: The whole text, without lone surrogates and more than white space.
        content_bytes: Length of `content` in UTF-8.
        content_hash: SHA-256 of `content` in UTF-8, 64 lower-case hex digits.
        source: Path of the file.
        metadata: At most `MAX_METADATA_BYTES`.
        data: `content` in UTF-8.
        metadata_bytes: `metadata` as an Avro map in the order of the names: equal ones have equal bytes.
        left_out: Names of the fields that the metadata had no room for.
    """

    id: str
    content: str
    content_bytes: int
    content_hash: str
    source: str
    metadata: dict[str, str]
    data: bytes
    metadata_bytes: bytes
    left_out: tuple[str, ...] = ()


class PreparedDocument(NamedTuple):
    """A document, encoded but for its version; a tuple, since it goes from process to process.

    Attributes:
        id: Its id.
        file: The number of the file that it was read from.
        line: Its line in a file that holds many documents, from 1; None in a file that is one.
        content_hash: SHA-256 of the whole text in UTF-8, 32 bytes.
        metadata_hash: As `hash_of_metadata` returns it.
        content_bytes: Length of the text in UTF-8.
        segments: What follows the version in the record of each segment.
    """

    id: str
    file: int
    line: int | None
    content_hash: bytes
    metadata_hash: bytes
    content_bytes: int
    segments: tuple[bytes, ...]


def check(raw: RawDocument, id_field: str | None = None, metadata_fields: Sequence[str] = ()) -> ReadDocument:
    """Check a raw document and give it its id.

    The id is `id_field` where one is named; else the record's own `id`, if that is text or a whole number;
    else the path relative to the root, in a file of many documents with `#` and the content's hash. All other
    fields become metadata, or of them those that `metadata_fields` names.

    Raises:
        RefusedError: The document can't be sent as it is; says why.
    """
    content = raw.content
    if not isinstance(content, str):
        raise RefusedError(Reason.CONTENT_NOT_TEXT, f"the content is {_kind(content)}, not text")
    if not content or content.isspace():
        raise RefusedError(
            Reason.EMPTY, "the content is empty" if not content else "the content is white space"
        )
    data = _utf8(content, "the content")
    # Control characters and the like, of which no tokenizer makes anything; the first sign of text ends this.
    if not content[0].isalnum() and not any(c.isprintable() and c != " " for c in content):
        raise RefusedError(Reason.EMPTY, "the content holds nothing that is visible")
    digest = hashlib.sha256(data).hexdigest()
    fields = dict(raw.fields)
    _check_hash(fields, digest)
    document_id = _take_id(fields, id_field)
    if document_id is None:
        document_id = raw.relative if raw.line is None else f"{raw.relative}#{digest}"
    if len(_utf8(document_id, "the id")) > MAX_ID_BYTES:
        raise RefusedError(Reason.BAD_ID, f"the id is longer than {MAX_ID_BYTES} bytes")
    if metadata_fields:
        fields = {name: fields[name] for name in metadata_fields if name in fields}
    metadata = {
        name: value if type(value) is str else _as_text(name, value)
        for name, value in fields.items()
        if value is not None
    }
    left_out: tuple[str, ...] = ()
    try:
        encoded = _metadata_bytes(metadata)
    except UnicodeEncodeError:
        encoded = None  # the field is named below
    # Somewhat more than is counted: Avro's lengths are among it.
    if encoded is None or len(encoded) > MAX_METADATA_BYTES:
        left_out = _cut_metadata(metadata)
        encoded = _metadata_bytes(metadata)
    return ReadDocument(
        document_id, content, len(data), digest, raw.source, metadata, data, encoded, left_out
    )


def prepare(document: ReadDocument, file: int, line: int | None, segment_bytes: int) -> PreparedDocument:
    """Encode a document.

    Args:
        document: What to send.
        file: The number of its file.
        line: Its line there, as in `RawDocument`.
        segment_bytes: The most text that a record holds, in bytes of UTF-8.
    """
    metadata = document.metadata_bytes
    source = _source(document.source)
    if document.content_bytes <= segment_bytes:
        whole = (0, 1, 0)
        segments = [segment_after_version(document.data, document.content_hash, source, whole, metadata)]
    else:
        segments = []
        start_char = 0
        texts = cut(document.content, segment_bytes)
        for index, text in enumerate(texts):
            place = (index, len(texts), start_char)
            segments.append(
                segment_after_version(text.encode(), document.content_hash, source, place, metadata)
            )
            start_char += len(text)
    return PreparedDocument(
        document.id,
        file,
        line,
        bytes.fromhex(document.content_hash),
        hashlib.sha256(metadata).digest()[:16],
        document.content_bytes,
        tuple(segments),
    )


# The documents of a file have the same one.
_source = lru_cache(maxsize=64)(string)


def hash_of_metadata(metadata: Mapping[str, str]) -> bytes:
    """Return 16 bytes that two documents' metadata have in common if they are equal, in whatever order."""
    return hashlib.sha256(_metadata_bytes(metadata)).digest()[:16]


def _metadata_bytes(metadata: Mapping[str, str]) -> bytes:
    """Return the metadata as an Avro map in the order of the names, so that equal ones have equal bytes."""
    return string_map(dict(sorted(metadata.items())))


def _check_hash(fields: dict[str, object], digest: str) -> None:
    """Take a `content_hash` that is (a prefix of) a SHA-256 out of the fields, if it is right."""
    given = fields.get("content_hash")
    if not isinstance(given, str) or not _HEX_PREFIX.fullmatch(given):
        return
    if not digest.startswith(given.lower()):
        told = f"`content_hash` is {given}, and the content's SHA-256 begins with {digest[: len(given)]}"
        raise RefusedError(Reason.WRONG_HASH, told)
    del fields["content_hash"]


def _take_id(fields: dict[str, object], id_field: str | None) -> str | None:
    """Return the id that the fields hold; an `id` that is used is no metadata any more."""
    name = id_field or "id"
    value = fields.get(name)
    found = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not found:
        if id_field is not None:
            has = "is missing" if value is None else f"is {_kind(value)}"
            raise RefusedError(Reason.BAD_ID, f"`{id_field}`, the id field, {has}")
        return None
    if name == "id":
        del fields[name]
    return found


def _cut_metadata(metadata: dict[str, str]) -> tuple[str, ...]:
    """Take the largest fields out where all are too many bytes; return their names."""
    sizes = {name: len(_utf8(name, "a field's name")) + len(_utf8(v, name)) for name, v in metadata.items()}
    total = sum(sizes.values())
    left_out = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total <= MAX_METADATA_BYTES:
            break
        total -= sizes[name]
        del metadata[name]
        left_out.append(name)
    return tuple(left_out)


def _as_text(name: str, value: object) -> str:
    """Return text as it is, and anything else as JSON writes it."""
    if isinstance(value, str):
        return value
    try:
        return _JSON.encode(value)
    except RecursionError:
        raise RefusedError(Reason.NESTED_TOO_DEEP, f"`{name}` is nested too deep") from None


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        told = f"{what} holds a lone surrogate (\\u{ord(text[error.start]):04x}) at character {error.start}"
        raise RefusedError(Reason.LONE_SURROGATE, told) from None


def _kind(value: object) -> str:
    """Name what a JSON value is."""
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else "empty text" if value == "" else names.get(type(value), "no text")
