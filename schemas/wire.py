"""The wire format: records to bytes and back.

Records are written in Avro single-object encoding: ``C3 01``, the schema's fingerprint, the datum.
Confluent framing (``00``, a big-endian four-byte schema id, the datum) is read as well: `use_registry` says
how an id becomes a schema. Without a registry, such a datum is read with the current schema of its kind.

Whatever the bytes, the ``decode_*`` functions return a valid record or raise `WireError`.

    >>> decode_document(bytes.fromhex("7b22"))
    Traceback (most recent call last):
        ...
    schemas.wire.WireError: not_avro: the value starts with 7b 22, no known framing
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal, NoReturn, TypedDict, TypeVar, cast

import numpy as np
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas.avro import RecordName, Schema, current, fingerprint, released
from schemas.avro_bytes import long, string, string_map
from schemas.embedding_writer import EmbeddingWriter
from schemas.records import Document, Embedding, EmbeddingWithoutVector, Record

__all__ = [
    "EmbeddingFields",
    "PartFields",
    "SchemaLookup",
    "SourceFields",
    "WireError",
    "WireReason",
    "current_document_start",
    "decode_document",
    "decode_embedding",
    "decode_embedding_fields",
    "encode_document",
    "encode_embedding",
    "use_registry",
]

WireReason = Literal["not_avro", "unknown_schema", "corrupt", "invalid"]

SchemaLookup = Callable[[int], Schema | None]
"""Returns the schema that has an id in the registry; None where it has none."""

_R = TypeVar("_R", bound=Record)
"""The model that fields are validated with."""

_SINGLE_OBJECT = b"\xc3\x01"
_SINGLE_OBJECT_HEADER_BYTES = 10
_CONFLUENT = b"\x00"
_CONFLUENT_HEADER_BYTES = 5
_FLOAT = np.dtype("<f4")
_FLOATS = fingerprint({"type": "array", "items": "float"})


class WireError(ValueError):
    """Bytes that hold no valid record, or a record that can't become bytes.

    Attributes:
        reason: ``not_avro`` (no known framing), ``unknown_schema`` (the fingerprint is of no released
            schema, or the registry has none of that id for such a record), ``corrupt`` (the datum can't be
            read) or ``invalid`` (the fields contradict each other or their meaning).
    """

    def __init__(self, reason: WireReason, message: str) -> None:
        """Make the error; its text is ``reason: message``."""
        super().__init__(f"{reason}: {message}")
        self.reason: WireReason = reason


class SourceFields(TypedDict):
    """An input record's position."""

    topic: str
    partition: int
    offset: int


class PartFields(TypedDict):
    """Which of several parts: ``index`` from 0, below ``count``."""

    index: int
    count: int


class EmbeddingFields(TypedDict):
    """An embedding record less its vector; `EmbeddingWithoutVector` says what each field is."""

    id: str
    document_id: str
    document_version: int
    content_hash: str
    source: SourceFields
    segment: PartFields
    passage: PartFields
    start_char: int
    end_char: int
    text: str | None
    token_count: int
    model: str
    model_fingerprint: str
    precision: str
    dim: int
    metadata: dict[str, str]
    embedded_at: int


def use_registry(lookup: SchemaLookup | None) -> None:
    """From now on, ask a registry for the ids of Confluent framing; with None, don't ask any more.

    Each id is asked for once. What `lookup` raises goes through to who decodes.
    """
    global _lookup
    _lookup = lookup
    for kind in (_DOCUMENT, _EMBEDDING):
        kind.registered.clear()


def current_document_start(data: bytes) -> int:
    """Return where the datum starts if it is known to be written with the current schema, else 0."""
    if data.startswith(_DOCUMENT.header):
        return _SINGLE_OBJECT_HEADER_BYTES
    if _DOCUMENT.registered.get(data[:_CONFLUENT_HEADER_BYTES]) is _DOCUMENT.current:
        return _CONFLUENT_HEADER_BYTES
    return 0


def encode_document(document: Document) -> bytes:
    """Return the bytes of a document record.

    Raises:
        WireError: ``invalid`` where a string holds a lone surrogate, which UTF-8 can't say.
    """
    stream = BytesIO()
    stream.write(_DOCUMENT.header)
    try:
        schemaless_writer(stream, _DOCUMENT.current, document.model_dump())
    except UnicodeEncodeError as error:
        _refuse_surrogate(error)
    return stream.getvalue()


def decode_document(data: bytes) -> Document:
    """Return the document record that the bytes hold.

    Raises:
        WireError: With the reason, whatever is wrong with the bytes.
    """
    fields, end = _read_fields(_DOCUMENT, data)
    if end != len(data):
        raise WireError("corrupt", f"{len(data) - end} bytes follow the record")
    return _validate(Document, fields)


def encode_embedding(fields: EmbeddingFields, vector: NDArray[np.float32]) -> bytes:
    """Return the bytes of an embedding record; `schemas.embedding_writer` writes many of them sooner.

    Args:
        fields: The fields; they are trusted, and only what can't be written is found out.
        vector: float32 of shape ``(dim,)``, where ``dim`` is that of ``fields`` and at least 1.

    Raises:
        WireError: ``invalid`` where a string holds a lone surrogate or a number is negative or
            more than 63 bits.
        ValueError: Where the vector's type or shape is another.
    """
    source, segment, passage = fields["source"], fields["segment"], fields["passage"]
    try:
        model = EmbeddingWriter(
            fields["model"],
            fields["model_fingerprint"],
            fields["precision"],
            dim=fields["dim"],
            embedded_at=fields["embedded_at"],
        )
        document = model.document(
            string(fields["document_id"]) + long(fields["document_version"]),
            string(fields["content_hash"]),
            (source["topic"], source["partition"], source["offset"]),
            long(segment["index"]) + long(segment["count"]),
            passages=passage["count"],
            metadata=string_map(fields["metadata"]),
        )
        chars = fields["start_char"], fields["end_char"]
        identifier = fields["id"].encode()
        return document.passage(
            identifier, passage["index"], chars, fields["text"], fields["token_count"], vector
        )
    except UnicodeEncodeError as error:
        _refuse_surrogate(error)
    except OverflowError as error:
        raise WireError("invalid", str(error)) from error


def decode_embedding(data: bytes) -> Embedding:
    """Return the embedding record that the bytes hold; its vector has memory of its own.

    Raises:
        WireError: With the reason, whatever is wrong with the bytes.
    """
    fields, position = _read_fields(_EMBEDDING, data)
    blocks = [np.frombuffer(data, _FLOAT, count, start) for start, count in _vector_blocks(data, position)]
    # A copy: in the record the floats are unaligned, read-only, and hold on to the whole value.
    vector = np.concatenate([np.empty(0, _FLOAT), *blocks]).astype(np.float32, copy=False)
    return _validate(Embedding, {**fields, "vector": vector})


def decode_embedding_fields(data: bytes) -> EmbeddingFields:
    """Return the fields of an embedding record, without its vector.

    The record is checked as `decode_embedding` does, to its last byte, but no float is looked at.

    Raises:
        WireError: With the reason, whatever is wrong with the bytes.
    """
    fields, position = _read_fields(_EMBEDDING, data)
    floats = sum(count for _, count in _vector_blocks(data, position))
    if floats != fields["dim"]:
        raise WireError("invalid", f"the vector has {floats} floats and dim is {fields['dim']}")
    _validate(EmbeddingWithoutVector, fields)
    return cast(EmbeddingFields, fields)


@dataclass(frozen=True, slots=True)
class _Kind:
    """The schemas of one kind of record, as fastavro takes them.

    Attributes:
        header: What its records begin with.
        current: The current schema, which records are written with and resolved to.
        known: Every schema that a record may be written with, by fingerprint.
        registered: What the registry said, by the header of the records.
    """

    name: RecordName
    header: bytes
    current: Schema
    known: dict[bytes, Schema]
    registered: dict[bytes, Schema] = field(default_factory=dict)


def _load(name: RecordName) -> _Kind:
    newest = current(name)
    key, newest_parsed = fingerprint(newest), _parse(newest)
    known = {old: _parse(schema) for old, schema in released(name).items()}
    return _Kind(name, _SINGLE_OBJECT + key, newest_parsed, {**known, key: newest_parsed})


def _parse(schema: Schema) -> Schema:
    """Return the schema for fastavro: with times as integers, and without the vector, the last field."""
    # fastavro makes a datetime of a time, which is slow and has no year 10000.
    plain = json.loads(json.dumps(schema), object_hook=_drop_logical_type)
    if plain["fields"][-1]["name"] == "vector":
        del plain["fields"][-1]
    return cast(Schema, parse_schema(plain))


def _drop_logical_type(part: Schema) -> Schema:
    return {key: value for key, value in part.items() if key != "logicalType"}


def _read_fields(kind: _Kind, data: bytes) -> tuple[dict[str, Any], int]:
    """Return a record's fields under the current schema, less the vector, and where they end."""
    writer, start = _writer_schema(kind, data)
    stream = BytesIO(data)
    stream.seek(start)
    try:
        fields = schemaless_reader(stream, writer, None if writer is kind.current else kind.current)
    # Broken bytes make fastavro raise many things: EOFError, IndexError, UnicodeDecodeError and more.
    except Exception as error:
        what = f"{type(error).__name__} {error}".rstrip()
        raise WireError("corrupt", f"the datum can't be read: {what}") from error
    return cast(dict[str, Any], fields), stream.tell()


def _writer_schema(kind: _Kind, data: bytes) -> tuple[Schema, int]:
    """Return the schema that a record was written with, and where its datum starts."""
    if data.startswith(_SINGLE_OBJECT):
        key = data[len(_SINGLE_OBJECT) : _SINGLE_OBJECT_HEADER_BYTES]
        if len(data) < _SINGLE_OBJECT_HEADER_BYTES:
            raise WireError("corrupt", "the value ends within its header")
        if key not in kind.known:
            raise WireError("unknown_schema", f"no released schema has the fingerprint {key.hex()}")
        return kind.known[key], _SINGLE_OBJECT_HEADER_BYTES
    if data.startswith(_CONFLUENT):
        if _lookup is None:
            return kind.current, _CONFLUENT_HEADER_BYTES
        return _registered(kind, data[:_CONFLUENT_HEADER_BYTES], _lookup), _CONFLUENT_HEADER_BYTES
    found = f"starts with {data[:2].hex(' ')}" if data else "is empty"
    raise WireError("not_avro", f"the value {found}, no known framing")


def _registered(kind: _Kind, header: bytes, lookup: SchemaLookup) -> Schema:
    """Return the schema that the registry has for the id in a header."""
    schema = kind.registered.get(header)
    if schema is None:
        if len(header) < _CONFLUENT_HEADER_BYTES:
            raise WireError("corrupt", "the value ends within its header")
        schema_id = int.from_bytes(header[len(_CONFLUENT) :], "big")
        schema = kind.registered[header] = _understood(kind, schema_id, lookup(schema_id))
    return schema


def _understood(kind: _Kind, schema_id: int, schema: Schema | None) -> Schema:
    """Return a schema of the registry as fastavro takes it, if records of this kind can be read with it."""
    if schema is None:
        raise WireError("unknown_schema", f"the registry has no Avro schema of the id {schema_id}")
    try:
        key = fingerprint(schema)
        if key in kind.known:
            return kind.known[key]
        parsed, last = _parse(schema), schema["fields"][-1]
        ends_with_vector = last["name"] == "vector" and fingerprint(last["type"]) == _FLOATS
    # A registry holds whatever was put there.
    except Exception as error:
        told = f"the registry's schema of the id {schema_id} can't be used: {type(error).__name__} {error}"
        raise WireError("unknown_schema", told.rstrip()) from error
    if parsed["name"] != kind.current["name"]:
        told = f"the id {schema_id} is of {parsed['name']} in the registry, not of {kind.current['name']}"
        raise WireError("unknown_schema", told)
    if kind.name == "embedding" and not ends_with_vector:
        told = f"the registry's schema of the id {schema_id} does not end with a vector of floats"
        raise WireError("unknown_schema", told)
    return parsed


def _vector_blocks(data: bytes, position: int) -> list[tuple[int, int]]:
    """Return where each block of the vector, the last field, starts and how many floats it has.

    No block is larger than the bytes that are there, whatever it claims, and the last ends the record.
    """
    blocks = []
    count, position = _read_long(data, position)
    while count:
        if count < 0:  # Avro: the block's size in bytes follows its negated count.
            count = -count
            size, position = _read_long(data, position)
            if size != count * _FLOAT.itemsize:
                raise WireError("corrupt", f"a block of {count} floats claims {size} bytes")
        blocks.append((position, count))
        position += count * _FLOAT.itemsize
        if position > len(data):
            raise WireError("corrupt", f"a block of {count} floats goes past the end of the record")
        count, position = _read_long(data, position)
    if position != len(data):
        raise WireError("corrupt", f"{len(data) - position} bytes follow the record")
    return blocks


def _read_long(data: bytes, position: int) -> tuple[int, int]:
    """Return the Avro long at a position, and where it ends."""
    zigzag = 0
    for shift in range(0, 70, 7):
        if position == len(data):
            raise WireError("corrupt", "the record ends within a number")
        byte = data[position]
        position += 1
        zigzag |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (zigzag >> 1) ^ -(zigzag & 1), position
    raise WireError("corrupt", "a number is longer than 10 bytes")


def _validate(model: type[_R], fields: dict[str, Any]) -> _R:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise WireError("invalid", f"{where}: {message}" if where else message) from error


def _refuse_surrogate(error: UnicodeEncodeError) -> NoReturn:
    what = f"U+{ord(error.object[error.start]):04X}"
    raise WireError("invalid", f"a string holds the lone surrogate {what}, which UTF-8 can't say") from error


_lookup: SchemaLookup | None = None
_DOCUMENT = _load("document")
_EMBEDDING = _load("embedding")
