"""The Avro schemas of the records: the current ones, and every one ever released.

``document.avsc`` and ``embedding.avsc`` are the current schemas, which records are written with.
``released/`` keeps each schema that records may have been written with, numbered from 1, so that
old records stay readable: a change to a current schema comes with a new file there.

    >>> fingerprint(current("document")) in released("document")
    True
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Literal

from fastavro.schema import fingerprint as _digest
from fastavro.schema import to_parsing_canonical_form

__all__ = [
    "RecordName",
    "Schema",
    "confluent_header",
    "current",
    "fingerprint",
    "released",
    "single_object_header",
]

RecordName = Literal["document", "embedding"]
"""The records that have a schema."""

Schema = dict[str, Any]
"""A record's schema, as its .avsc file has it."""


def current(name: RecordName) -> Schema:
    """Return the schema that records are written with, and resolved to when they are read."""
    schema: Schema = json.loads(files("schemas").joinpath(f"{name}.avsc").read_text("utf-8"))
    return schema


def released(name: RecordName) -> dict[bytes, Schema]:
    """Return every schema that records may have been written with, oldest first, by fingerprint."""
    folder = files("schemas").joinpath("released")
    found = [file for file in folder.iterdir() if file.name.startswith(f"{name}-")]
    found.sort(key=lambda file: int(file.name.removesuffix(".avsc").rpartition("-")[2]))
    schemas = [json.loads(file.read_text("utf-8")) for file in found]
    return {fingerprint(schema): schema for schema in schemas}


def single_object_header(name: RecordName) -> bytes:
    """Return the 10 bytes that a record of the current schema begins with where there is no registry."""
    return b"\xc3\x01" + fingerprint(current(name))


def confluent_header(schema_id: int) -> bytes:
    """Return the 5 bytes that a record begins with whose schema has this id in a registry."""
    return b"\0" + schema_id.to_bytes(4, "big")


def fingerprint(schema: Schema) -> bytes:
    """Return the 8 bytes that name a schema in Avro single-object encoding.

    That is the CRC-64-AVRO (Rabin) fingerprint of its Parsing Canonical Form, little-endian:
    documentation, defaults and logical types don't change it.
    """
    return bytes.fromhex(_digest(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
