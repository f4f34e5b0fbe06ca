from __future__ import annotations

import pytest

from schemas.deletion import deletion_headers, deletion_source, deletion_version, passed_on_headers
from schemas.records import SourcePosition

SOURCE = SourcePosition(topic="documents", partition=3, offset=42)


def test_a_deletion_says_its_version() -> None:
    headers = deletion_headers(1_767_225_600_000)
    assert headers == [("document.version", b"1767225600000")]
    assert deletion_version(headers) == 1_767_225_600_000
    assert deletion_source(headers) is None


def test_a_deletion_that_was_passed_on_says_its_source_too() -> None:
    headers = passed_on_headers(7, SOURCE)
    assert headers == [
        ("document.version", b"7"),
        ("source.topic", b"documents"),
        ("source.partition", b"3"),
        ("source.offset", b"42"),
    ]
    assert deletion_version(headers) == 7
    assert deletion_source(headers) == SOURCE


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1_0",
        b"1.0",
        b"\xd9\xa1",
        b"now",
        b"9223372036854775808",
        b"9" * 5000,
    ],
)
def test_a_version_that_is_no_number_is_none(value: bytes | None) -> None:
    assert deletion_version([("document.version", value)]) is None


def test_a_deletion_without_headers_has_no_version_and_no_source() -> None:
    assert deletion_version(None) is None
    assert deletion_version([]) is None
    assert deletion_source(None) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source.topic", b""),
        ("source.topic", b"\xff"),
        ("source.partition", b"x"),
        ("source.partition", b"2147483648"),
        ("source.offset", b"-1"),
    ],
)
def test_a_source_that_can_not_be_read_is_none(name: str, value: bytes) -> None:
    assert deletion_source([*passed_on_headers(7, SOURCE), (name, value)]) is None


def test_the_last_header_of_a_name_counts_and_text_is_taken_as_bytes() -> None:
    headers: list[tuple[str, bytes | str | None]] = [("document.version", b"7"), ("document.version", "8")]
    assert deletion_version(headers) == 8
