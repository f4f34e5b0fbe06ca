from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.documents import RawDocument
from producer.json_sources import read_json
from producer.refusals import RefusedError
from producer.source import ReadingRules
from producer.walk import FoundFile

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def parsed(data: bytes) -> dict[str, object]:
    (found,) = read_json(io.BytesIO(data), FoundFile("a.json", "a.json"), ReadingRules())
    assert isinstance(found, RawDocument)
    return {"content": found.content, **found.fields}


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.booleans())
def test_every_value_is_what_the_standard_library_reads(fields: dict[str, object], escaped: bool) -> None:
    data = json.dumps({**fields, "content": "x"}, ensure_ascii=escaped).encode(errors="replace")
    assert json.dumps(parsed(data), sort_keys=True) == json.dumps(json.loads(data), sort_keys=True)


@pytest.mark.parametrize("number", [2**63, 2**64, 10**25, -(2**63) - 1, -(10**40)])
def test_a_whole_number_of_any_size_is_kept_to_the_last_digit(number: int) -> None:
    data = json.dumps({"content": "x", "n": number, "list": [{"deep": number}]}).encode()
    assert parsed(data)["n"] == number
    assert parsed(data)["list"] == [{"deep": number}]


def test_what_is_wrong_is_said_in_the_words_of_the_standard_library() -> None:
    with pytest.raises(RefusedError, match=r"not JSON: Expecting ',' delimiter: line 1 column 17"):
        parsed(b'{"content": "x" "y"}')
