"""Confluent framing with a registry to ask: an id stands for the schema that the registry has for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fastavro import schemaless_writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import document_parts
from schemas.avro import Schema, confluent_header, current, single_object_header
from schemas.document_parts import DocumentParts, parts_of, read_parts
from schemas.document_writer import before_version, version_bytes
from schemas.records import Document
from schemas.wire import (
    EmbeddingFields,
    WireError,
    decode_document,
    decode_embedding,
    decode_embedding_fields,
    encode_document,
    encode_embedding,
    use_registry,
)
from tests.unit.schemas.strategies import documents, embeddings
from tests.unit.schemas.test_records import DOCUMENT
from tests.unit.schemas.test_wire import FIELDS, VECTOR

DOCUMENT_ID, EMBEDDING_ID, OTHER_ID = 7, 2**31 - 1, 300


class Registry:
    """Schemas by id; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.schemas: dict[int, Schema] = {
            DOCUMENT_ID: current("document"),
            EMBEDDING_ID: current("embedding"),
        }

    def __call__(self, schema_id: int) -> Schema | None:
        self.asked.append(schema_id)
        return self.schemas.get(schema_id)


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry()
    use_registry(registry)
    yield registry
    use_registry(None)


def said(read: Callable[[], DocumentParts]) -> DocumentParts | str:
    """What a reader makes of a record, or why not; less the metadata, written in several ways."""
    try:
        return read()._replace(metadata=b"")
    except WireError as error:
        return str(error)


def written(schema: Schema, record: dict[str, Any], schema_id: int = OTHER_ID) -> bytes:
    stream = BytesIO()
    schemaless_writer(stream, schema, record)
    return confluent_header(schema_id) + stream.getvalue()


def test_headers_are_what_the_specifications_say() -> None:
    assert confluent_header(258) == b"\0\0\0\1\2"
    assert single_object_header("document")[:2] == b"\xc3\x01"
    assert len(single_object_header("embedding")) == 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents(), embeddings())
def test_registered_records_say_what_single_objects_say(
    registry: Registry, document: Document, embedding: tuple[EmbeddingFields, Any]
) -> None:
    plain = encode_document(document)
    framed = confluent_header(DOCUMENT_ID) + plain[10:]
    assert decode_document(framed) == document
    assert read_parts(framed) == parts_of(document)
    plain = encode_embedding(*embedding)
    framed = confluent_header(EMBEDDING_ID) + plain[10:]
    assert decode_embedding(framed) == decode_embedding(plain)
    assert decode_embedding_fields(framed) == embedding[0]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents(), st.data())
def test_of_damaged_registered_bytes_both_readers_say_the_same(
    registry: Registry, document: Document, data: st.DataObject
) -> None:
    whole = confluent_header(DOCUMENT_ID) + encode_document(document)[10:]
    decode_document(whole)  # the id is known from here on, and the quick reader is used
    at = data.draw(st.integers(5, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :]
    assert said(lambda: read_parts(damaged)) == said(lambda: parts_of(decode_document(damaged)))


def test_an_id_is_asked_for_once_and_then_the_quick_reader_reads(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    framed = confluent_header(DOCUMENT_ID) + encode_document(Document.model_validate(DOCUMENT))[10:]
    first = read_parts(framed)
    monkeypatch.setattr(document_parts, "decode_document", lambda _: pytest.fail("read slowly"))
    assert all(read_parts(framed) == first for _ in range(100))
    assert registry.asked == [DOCUMENT_ID]


def test_what_the_writers_put_together_begins_with_the_header_they_are_given(registry: Registry) -> None:
    document = Document.model_validate(DOCUMENT)
    key = document.id.encode()
    head = before_version(key, confluent_header(DOCUMENT_ID)) + version_bytes(document.version)
    plain = before_version(key) + version_bytes(document.version)
    assert head[5:] == plain[10:]
    assert decode_document(head + encode_document(document)[len(plain) :]) == document


def test_another_writers_schema_is_resolved_to_ours(registry: Registry) -> None:
    theirs = current("document")
    extra = {"name": "reviewer", "type": ["null", "string"], "default": None}
    theirs["fields"] = [theirs["fields"][-1], extra, *theirs["fields"][:-1]]
    registry.schemas[OTHER_ID] = theirs
    framed = written(copy.deepcopy(theirs), {**DOCUMENT, "reviewer": "someone"})
    assert decode_document(framed) == Document.model_validate(DOCUMENT)
    assert read_parts(framed) == parts_of(Document.model_validate(DOCUMENT))


@pytest.mark.parametrize(
    "type_", ["bytes", {"type": "array", "items": "double"}, {"type": "array", "items": ["null", "float"]}]
)
def test_an_embedding_whose_vector_is_no_array_of_floats_at_the_end_is_an_unknown_schema(
    registry: Registry, type_: Any
) -> None:
    other = current("embedding")
    other["fields"][-1]["type"] = type_
    first = current("embedding")
    first["fields"] = [first["fields"][-1], *first["fields"][:-1]]
    for schema in (other, first):
        use_registry(registry)
        registry.schemas[OTHER_ID] = schema
        for decode in (decode_embedding, decode_embedding_fields):
            with pytest.raises(WireError, match="does not end with a vector of floats") as error:
                decode(confluent_header(OTHER_ID) + encode_embedding(FIELDS, VECTOR)[10:])
            assert error.value.reason == "unknown_schema"


def test_a_records_kind_counts_not_only_its_id(registry: Registry) -> None:
    document = confluent_header(DOCUMENT_ID) + encode_document(Document.model_validate(DOCUMENT))[10:]
    with pytest.raises(WireError, match="Document in the registry, not of") as error:
        decode_embedding(document)
    assert error.value.reason == "unknown_schema"


@given(st.binary(max_size=40))
def test_whatever_the_bytes_there_is_a_record_or_a_reason(data: bytes) -> None:
    use_registry(lambda _: None)
    try:
        for decode in (decode_document, decode_embedding, decode_embedding_fields, read_parts):
            with pytest.raises(WireError):
                decode(b"\0" + data)
    finally:
        use_registry(None)


def test_without_a_registry_an_id_stands_for_the_current_schema() -> None:
    framed = confluent_header(12345) + encode_embedding(FIELDS, VECTOR)[10:]
    assert np.array_equal(decode_embedding(framed).vector, VECTOR)
