"""JSON: one document a file, or one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from producer import source
from producer.documents import RawDocument
from producer.refusals import Reason, Refusal, RefusedError
from producer.selection import ALL
from producer.source import BOM, ReadingRules, as_text, document_of, whole
from producer.walk import FoundFile

__all__ = ["read_json", "read_json_lines"]

_SKIP_READ = 64 * 1024
_EXACT = frozenset({str, int, bool, type(None)})
_LARGE = 2.0**63


def read_json(stream: BinaryIO, file: FoundFile, rules: ReadingRules) -> Iterator[RawDocument | Refusal]:
    """One document a file: a JSON object."""
    yield document_of(_fields(whole(stream)), file, rules)


def read_json_lines(
    stream: BinaryIO, file: FoundFile, rules: ReadingRules
) -> Iterator[RawDocument | Refusal]:
    """One document a line, each a JSON object; empty lines are passed over."""
    most = source.MAX_DOCUMENT_BYTES
    selection = None if rules.selection == ALL else rules.selection
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        try:
            too_long = len(line) > most
            if too_long:
                _skip_line(stream, line)
            if selection is not None and not selection.takes(file.relative, number):
                continue
            if too_long:
                raise RefusedError(Reason.TOO_LARGE, f"the line is longer than {most} bytes")
            if number == 1:
                line = line.removeprefix(BOM)
            if not line.isspace():
                yield document_of(_fields(line), file, rules, number)
        except RefusedError as error:
            yield error.at(f"{file.path}:{number}")


def _skip_line(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_SKIP_READ)


def _fields(data: bytes) -> dict[str, object]:
    """Parse one JSON object.

    orjson takes a third of the time, and less than all of JSON: what it refuses and what it would round is
    left to json, which also has the better words for what is wrong.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _by_json(data)
    if not isinstance(fields, dict):
        raise RefusedError(Reason.NOT_AN_OBJECT, "the JSON is not an object")
    values = fields.values()
    if not _EXACT.issuperset(map(type, values)) and any(map(_may_be_rounded, values)):
        return _by_json(data)
    return fields


def _may_be_rounded(value: object) -> bool:
    """Return whether a number of orjson's may have been a whole one, too large for 64 bits."""
    if isinstance(value, float):
        return abs(value) >= _LARGE
    if isinstance(value, list):
        return any(map(_may_be_rounded, value))
    return isinstance(value, dict) and any(map(_may_be_rounded, value.values()))


def _by_json(data: bytes) -> dict[str, object]:
    """Parse one JSON object.

    From the decoded text, because json guesses UTF-16 from bytes, and lets half of a surrogate pair through.
    """
    text = as_text(data)
    try:
        fields = json.loads(text)
    except RecursionError:
        raise RefusedError(Reason.NESTED_TOO_DEEP, "the JSON is nested too deep") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise RefusedError(Reason.NOT_JSON, f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(Reason.NOT_AN_OBJECT, "the JSON is not an object")
    return fields
