from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.documents import (
    MAX_ID_BYTES,
    MAX_METADATA_BYTES,
    RawDocument,
    ReadDocument,
    check,
    hash_of_metadata,
    prepare,
)
from producer.refusals import Reason, RefusedError
from schemas.document_writer import before_version, version_bytes
from schemas.records import Document
from schemas.wire import decode_document


def records(document: ReadDocument, version: int, segment_bytes: int) -> list[Document]:
    """The records of a document as a reader of the topic gets them."""
    prepared = prepare(document, 0, None, segment_bytes)
    assert prepared.content_hash.hex() == document.content_hash
    assert prepared.metadata_hash == hash_of_metadata(dict(reversed(document.metadata.items())))
    head = before_version(prepared.id.encode()) + version_bytes(version)
    return [decode_document(head + segment) for segment in prepared.segments]


def raw(content: object = "Text.", **fields: object) -> RawDocument:
    return RawDocument(content, fields, "corpus/a.json", "a.json")


def refused(document: RawDocument, id_field: str | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check(document, id_field)
    return caught.value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", Reason.EMPTY),
        (" \n\t\u3000\u00a0", Reason.EMPTY),
        ("\x00 \u200b\ufeff\u00ad", Reason.EMPTY),
        (None, Reason.CONTENT_NOT_TEXT),
        (3, Reason.CONTENT_NOT_TEXT),
        (["Text."], Reason.CONTENT_NOT_TEXT),
        ("half a pair: \ud800", Reason.LONE_SURROGATE),
    ],
)
def test_content_that_is_no_text_is_refused(content: object, reason: Reason) -> None:
    assert refused(raw(content)).reason == reason


def test_a_nul_is_kept_all_the_way() -> None:
    document = check(raw("a\x00b"))
    (record,) = records(document, 1, 1024)
    assert record.content == "a\x00b"
    assert document.content_hash == hashlib.sha256(b"a\x00b").hexdigest()


@pytest.mark.parametrize("digits", [16, 17, 40, 64])
def test_a_prefix_of_the_sha256_is_checked_and_taken_out_of_the_metadata(digits: int) -> None:
    digest = hashlib.sha256(b"Text.").hexdigest()
    assert "content_hash" not in check(raw(content_hash=digest[:digits])).metadata
    assert "content_hash" not in check(raw(content_hash=digest[:digits].upper())).metadata
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:digits]
    error = refused(raw(content_hash=wrong))
    assert error.reason == Reason.WRONG_HASH
    assert digest[:digits] in error.message


@pytest.mark.parametrize("form", ["0" * 15, "0" * 65, "sha256:" + "0" * 64, "q" * 16, 1234567890123456, ""])
def test_any_other_form_of_hash_is_metadata(form: object) -> None:
    assert check(raw(content_hash=form)).metadata == {"content_hash": str(form)}


def test_the_id_is_the_field_named_else_the_records_own_else_the_path() -> None:
    assert check(raw(id="own", url="u"), "url").id == "u"
    assert check(raw(id="own", url="u")).id == "own"
    assert check(raw(id=7)).id == "7"
    assert check(raw()).id == "a.json"
    assert (
        check(RawDocument("Text.", {}, "corpus/a.jsonl", "a.jsonl", 3)).id
        == "a.jsonl#" + hashlib.sha256(b"Text.").hexdigest()
    )


def test_an_id_that_is_used_is_no_metadata_but_a_named_field_stays() -> None:
    assert check(raw(id="own")).metadata == {}
    assert check(raw(id="own", url="u"), "url").metadata == {"id": "own", "url": "u"}


@pytest.mark.parametrize("value", [None, "", True, [1], {}, 1.5])
def test_an_own_id_that_is_no_name_gives_way_to_the_path(value: object) -> None:
    assert check(raw(id=value)).id == "a.json"


@pytest.mark.parametrize("fields", [{}, {"url": None}, {"url": ""}, {"url": ["u"]}])
def test_a_document_without_the_named_id_is_refused(fields: Mapping[str, object]) -> None:
    error = refused(raw(id="own", **fields), "url")
    assert error.reason == Reason.BAD_ID
    assert "`url`" in error.message


def test_an_id_too_long_for_a_key_is_refused() -> None:
    assert refused(raw(id="é" * (MAX_ID_BYTES // 2 + 1))).reason == Reason.BAD_ID
    assert len(check(raw(id="é" * (MAX_ID_BYTES // 2))).id.encode()) == MAX_ID_BYTES


def test_metadata_is_text_and_what_is_none_is_left_out() -> None:
    found = check(raw(title="T", words=5003, open=True, none=None, tags=["a", "é"], more={"b": 1.5})).metadata
    assert found == {
        "title": "T",
        "words": "5003",
        "open": "true",
        "tags": '["a", "é"]',
        "more": '{"b": 1.5}',
    }


@pytest.mark.parametrize(
    "fields", [{"title": "\udfff"}, {"\ud800": "x"}, {"id": "\ud800"}, {"n": ["\ud800"]}]
)
def test_a_lone_surrogate_in_another_field_is_refused(fields: Mapping[str, object]) -> None:
    assert refused(raw(**fields)).reason == Reason.LONE_SURROGATE


def test_metadata_nested_too_deep_to_be_written_is_refused() -> None:
    bomb: list[object] = []
    for _ in range(100_000):
        bomb = [bomb]
    error = refused(raw(bomb=bomb))
    while bomb:  # else freeing it is what ends the stack
        (bomb,) = bomb  # type: ignore[assignment]
    assert error.reason == Reason.NESTED_TOO_DEEP


@given(st.dictionaries(st.text("abé", max_size=5), st.integers(0, 20_000).map(lambda n: "é" * n), max_size=6))
def test_metadata_over_the_cap_loses_its_largest_fields_by_name(fields: dict[str, str]) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("content_hash", "id")}
    document = check(RawDocument("Text.", fields, "a", "a"))
    assert sum(len(k.encode()) + len(v.encode()) for k, v in document.metadata.items()) <= MAX_METADATA_BYTES
    assert {**document.metadata, **{name: fields[name] for name in document.left_out}} == fields
    if document.left_out and document.metadata:
        smallest = min(len((name + fields[name]).encode()) for name in document.left_out)
        assert all(len((k + v).encode()) <= smallest for k, v in document.metadata.items())


def test_all_records_of_a_document_share_everything_but_their_segment() -> None:
    text = "Paragraph one is here.\n\nAnd 漢字 😀 follow.\n\n" * 200
    made = records(check(raw(text, title="T")), 42, 1024)
    assert len(made) > 5
    assert "".join(record.content for record in made) == text
    start = 0
    for index, record in enumerate(made):
        assert (record.segment.index, record.segment.count) == (index, len(made))
        assert record.segment.start_char == start
        start += len(record.content)
    shared = {json.dumps(r.model_dump(exclude={"content", "segment"}), sort_keys=True) for r in made}
    assert len(shared) == 1
    assert made[0].version == 42
    assert made[0].content_hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("content", [".", " 😀", "\x00\x00a", "\u200b漢", "\ufeff\n—"])
def test_a_single_sign_is_a_document(content: str) -> None:
    assert check(raw(content)).content == content
