"""The quick reader of documents against the general one: the same of every record, and the same refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import document_parts
from schemas.avro import current, fingerprint
from schemas.document_parts import DocumentParts, parts_of, read_parts
from schemas.records import Document
from schemas.wire import WireError, decode_document, encode_document
from tests.unit.schemas.strategies import documents

HEADER = b"\xc3\x01" + fingerprint(current("document"))


def general(data: bytes) -> DocumentParts | str:
    try:
        return parts_of(decode_document(data))
    except WireError as error:
        return str(error)


def quick(data: bytes) -> DocumentParts | str:
    try:
        return read_parts(data)
    except WireError as error:
        return str(error)


@given(documents())
def test_a_document_is_read_as_the_general_reader_does_without_asking_it(document: Document) -> None:
    data = encode_document(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            document_parts, "decode_document", lambda _: pytest.fail("the general reader was asked")
        )
        found = read_parts(data)
    assert found == parts_of(document)
    assert found.version == document.version
    assert decode_document(HEADER + rejoined(found, document)) == document


def rejoined(parts: DocumentParts, document: Document) -> bytes:
    """The record put together from its parts again: each is what stands in it."""
    from schemas.avro_bytes import long, string

    return b"".join(
        (
            parts.identity,
            string(parts.content),
            parts.content_hash,
            string(document.source),
            parts.segment,
            long(parts.start_char),
            parts.metadata,
        )
    )


@settings(max_examples=500)
@given(documents(), st.data())
def test_of_damaged_bytes_both_readers_say_the_same(document: Document, data: st.DataObject) -> None:
    whole = encode_document(document)
    at = data.draw(st.integers(0, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :]
    expected: Any = general(damaged)
    if isinstance(expected, DocumentParts):
        # A map may name a key twice, or come in several blocks: what it says is the same.
        found = read_parts(damaged)
        assert found._replace(metadata=b"") == expected._replace(metadata=b"")
    else:
        assert quick(damaged) == expected


@given(st.binary(max_size=300))
def test_of_arbitrary_bytes_both_readers_say_the_same(data: bytes) -> None:
    assert quick(HEADER + data) == general(HEADER + data)
