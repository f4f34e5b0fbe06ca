"""The oracle of the integration and fault tests finds what is wrong: each kind, and only that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from consumer.encoder import ModelInfo
from consumer.outbound import OutputLayout, build_records
from consumer.records import EmbeddedWindow, Item, SplitDocument, Window
from tests.oracle import Outcome, check_exactly_once
from tests.unit.consumer.items import a_document, a_refusal

MODEL = ModelInfo("a-model", "f00d", 2, 128, "fp32", "sdpa", "cpu")
LAYOUT = OutputLayout("embeddings", 2, 1_000_000, "dead-letters", 2, 4_000_000)
VECTOR = np.array([0.6, 0.8], np.float32)
DOCUMENTS = (a_document(0, 3, lengths=(5, 7)), a_document(0, 4, lengths=(6,)), a_document(1, 3))
REFUSED = a_refusal(1, 4)
KINDS = ("missing", "double", "unexpected", "disordered", "differing", "untrue")


@dataclass(frozen=True)
class Record:
    """As much of a message as the oracle looks at."""

    at: tuple[int, int]
    content: bytes | None
    named: bytes | None = None
    header: tuple[tuple[str, bytes | None], ...] = ()

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def value(self) -> bytes | None:
        return self.content

    def key(self) -> bytes | None:
        return self.named

    def headers(self) -> list[tuple[str, bytes | None]]:
        return list(self.header)


def written(*items: Item) -> list[Record]:
    """The output of a window of these."""
    passages = sum(len(each.passages) for each in items if isinstance(each, SplitDocument))
    window = EmbeddedWindow(Window(1, items, 1), (VECTOR,) * passages)
    built = build_records(window, LAYOUT, MODEL, store_text=True, now_ms=5)
    records = [record for each in built for record in each.records]
    return [Record((each.partition, 0), each.value, each.key, each.headers) for each in records]


def judged(
    embeddings: Sequence[Record], letters: Sequence[Record], committed: dict[int, int] | None = None
) -> Outcome:
    inputs = [
        Record((each.input.partition, each.input.offset), each.input.value) for each in (*DOCUMENTS, REFUSED)
    ]
    return check_exactly_once(inputs, embeddings, letters, committed or {0: 5, 1: 5})  # type: ignore[arg-type]


def found(outcome: Outcome) -> set[str]:
    return {kind for kind in KINDS if getattr(outcome, kind)}


def test_nothing_is_found_where_all_is_right() -> None:
    outcome = judged(written(*DOCUMENTS), written(REFUSED))
    assert outcome.is_exactly_once
    assert not found(outcome)
    assert (outcome.inputs, outcome.embeddings, outcome.dead_letters) == (4, 4, 1)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("missing", (0, 2, 3)),
        ("missing", (0, 1, 3)),
        ("double", (0, 1, 0, 1, 2, 3)),
        ("disordered", (1, 0, 2, 3)),
        ("disordered", (2, 0, 1, 3)),
    ],
)
def test_passages_that_are_missing_double_or_out_of_order_are_found(kind: str, order: Sequence[int]) -> None:
    right = written(*DOCUMENTS)
    outcome = judged([right[place] for place in order], written(REFUSED))
    assert found(outcome) == {kind}
    assert not outcome.is_exactly_once


def test_a_dead_letter_that_is_missing_or_double_or_beside_embeddings_is_found() -> None:
    right, letters = written(*DOCUMENTS), written(REFUSED)
    assert found(judged(right, [])) == {"missing"}
    assert found(judged(right, letters * 2)) == {"double"}
    assert found(judged(right, [*letters, *written(a_refusal(0, 3))])) == {"double"}


def test_output_of_what_is_not_committed_is_unexpected() -> None:
    assert found(judged(written(*DOCUMENTS), written(REFUSED), {0: 5, 1: 4})) == {"unexpected"}


def test_passages_that_are_not_the_documents_text_are_untrue() -> None:
    shorter = a_document(0, 3, lengths=(5, 6))
    assert found(judged(written(shorter, *DOCUMENTS[1:]), written(REFUSED))) == {"untrue"}


def test_output_that_comes_again_and_says_something_else_differs() -> None:
    again = written(*DOCUMENTS, a_document(1, 3, lengths=(4,)))
    assert found(judged(again, written(REFUSED))) == {"differing", "double"}
