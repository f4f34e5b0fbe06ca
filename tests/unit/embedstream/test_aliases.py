from __future__ import annotations

import json
from dataclasses import replace

import pytest

from embedstream.aliases import Alias

ALIAS = Alias(
    "embeddings.bge", "BAAI/bge", "f00d", 1024, "documents", "live", {0: 17, 11: 3}, 1_700_000_000_000
)


def test_an_alias_is_read_back_as_it_was_written() -> None:
    assert Alias.from_value(ALIAS.to_value()) == ALIAS


def test_what_a_name_stood_for_before_is_kept() -> None:
    before = replace(ALIAS, topic="embeddings", dead_letters_topic="dead-letters")
    now = replace(ALIAS, previous=before)
    assert Alias.from_value(now.to_value()) == now


def test_an_alias_of_the_release_before_is_still_readable() -> None:
    told = json.loads(ALIAS.to_value())
    del told["previous"], told["dead_letters_topic"]
    assert Alias.from_value(json.dumps(told).encode()) == ALIAS


def test_fields_that_are_not_known_are_passed_over() -> None:
    told = json.loads(ALIAS.to_value()) | {"of_a_later_release": [1]}
    assert Alias.from_value(json.dumps(told).encode()) == ALIAS


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b'{"topic": "embeddings"}'])
def test_a_value_that_is_no_alias_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=": "):
        Alias.from_value(value)
