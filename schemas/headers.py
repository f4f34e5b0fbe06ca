"""Kafka headers as embedstream writes them: text in UTF-8, numbers in decimal digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.records import SourcePosition

__all__ = ["Headers", "read_headers", "read_number", "read_source", "read_text", "source_headers"]

Headers = list[tuple[str, bytes]]
"""Headers as confluent-kafka takes them."""

_LONG_DIGITS = 19


def source_headers(source: SourcePosition) -> Headers:
    """Return the three headers that name an input record."""
    return [
        ("source.topic", source.topic.encode()),
        ("source.partition", str(source.partition).encode()),
        ("source.offset", str(source.offset).encode()),
    ]


def read_headers(headers: Sequence[tuple[str, bytes | str | None]] | None) -> dict[str, bytes]:
    """Return a message's headers by name, less those without a value; the last of a name counts."""
    values: dict[str, bytes] = {}
    for name, value in headers or ():
        if value is not None:
            values[name] = value.encode() if isinstance(value, str) else value
    return values


def read_text(values: Mapping[str, bytes], name: str) -> str | None:
    """Return a header's text, or None where it is missing or not UTF-8."""
    try:
        return values[name].decode() if name in values else None
    except UnicodeDecodeError:
        return None


def read_number(values: Mapping[str, bytes], name: str) -> int | None:
    """Return a header's number, or None where it is missing or not the digits of a 63-bit integer."""
    digits = values.get(name, b"")
    if not digits.isdigit() or len(digits) > _LONG_DIGITS:
        return None
    number = int(digits)
    return number if number < 2**63 else None


def read_source(values: Mapping[str, bytes]) -> SourcePosition | None:
    """Return the input record that the headers name, or None where they name none."""
    topic = read_text(values, "source.topic")
    partition = read_number(values, "source.partition")
    offset = read_number(values, "source.offset")
    if not topic or partition is None or offset is None or partition >= 2**31:
        return None
    return SourcePosition(topic=topic, partition=partition, offset=offset)
