from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.dead_letter import MESSAGE_BYTES, DeadLetter, Reason
from schemas.records import SourcePosition
from tests.unit.schemas.strategies import INT, LONG, NAME

LETTER = DeadLetter(
    error_class=Reason.NOT_FINITE,
    error_message="passage 2 of 5: NaN",
    source=SourcePosition(topic="documents", partition=3, offset=42),
    model="BAAI/bge-large-en-v1.5",
    model_fingerprint="8f14e45f",
)

letters = st.builds(
    DeadLetter,
    error_class=st.sampled_from(Reason),
    error_message=st.text(max_size=600),
    source=st.builds(SourcePosition, topic=NAME, partition=INT, offset=LONG),
    model=NAME,
    model_fingerprint=NAME,
    attempts=st.integers(1, 2**31 - 1),
    document_id=st.none() | st.text(),
    document_version=st.none() | LONG,
)


def test_a_dead_letters_headers_have_the_names_that_readers_know() -> None:
    letter = LETTER.model_copy(update={"document_id": "capital/ch01", "document_version": 7})
    assert letter.to_headers() == [
        ("error.class", b"not_finite"),
        ("error.message", b"passage 2 of 5: NaN"),
        ("source.topic", b"documents"),
        ("source.partition", b"3"),
        ("source.offset", b"42"),
        ("model", b"BAAI/bge-large-en-v1.5"),
        ("model.fingerprint", b"8f14e45f"),
        ("attempts", b"1"),
        ("document.id", b"capital/ch01"),
        ("document.version", b"7"),
    ]


def test_what_is_not_known_of_the_document_is_left_out() -> None:
    names = [name for name, _ in LETTER.to_headers()]
    assert "document.id" not in names
    assert "document.version" not in names


@given(letters)
def test_a_dead_letter_comes_back_as_it_went(letter: DeadLetter) -> None:
    assert DeadLetter.from_headers(letter.to_headers()) == letter


@given(st.text(), st.integers(0, MESSAGE_BYTES + 4), st.sampled_from("aé€😀"))
def test_a_message_is_cut_at_the_end_of_a_character(start: str, repeats: int, character: str) -> None:
    message = start + character * repeats
    capped = LETTER.model_validate(LETTER.model_dump() | {"error_message": message}).error_message
    size = len(capped.encode())
    assert message.startswith(capped)
    assert size <= MESSAGE_BYTES
    if capped != message:
        assert size + len(message[len(capped)].encode()) > MESSAGE_BYTES


def test_a_message_with_a_lone_surrogate_can_be_written() -> None:
    letter = DeadLetter.model_validate(LETTER.model_dump() | {"error_message": "a\ud83d"})
    assert dict(letter.to_headers())["error.message"] == b"a?"


@pytest.mark.parametrize("missing", [name for name, _ in LETTER.to_headers()])
def test_a_missing_header_is_named(missing: str) -> None:
    headers = [(name, value) for name, value in LETTER.to_headers() if name != missing]
    with pytest.raises(ValueError, match=missing):
        DeadLetter.from_headers(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("error.class", b"bad_luck"),
        ("error.message", b"\xff"),
        ("source.offset", b"x"),
        ("model", b""),
        ("attempts", b"0"),
        ("attempts", b"many"),
        ("model.fingerprint", None),
    ],
)
def test_a_header_that_can_not_be_read_is_named(name: str, value: Any) -> None:
    headers = [(known, value if known == name else old) for known, old in LETTER.to_headers()]
    with pytest.raises(ValueError, match=name) as caught:
        DeadLetter.from_headers(headers)
    assert "\n" not in str(caught.value)


def test_no_headers_are_no_dead_letter() -> None:
    with pytest.raises(ValueError, match=r"source\.topic"):
        DeadLetter.from_headers(None)


def test_a_dead_letter_is_frozen() -> None:
    with pytest.raises(ValidationError):
        LETTER.attempts = 2  # type: ignore[misc]
