from __future__ import annotations

import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import selection as module
from producer.selection import ALL, BoundFinder, Selection, number_of


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 50)), unique_by=lambda each: each[0]),
    st.integers(1, 300),
    st.integers(2, 20),
)
def test_the_bound_is_the_lowest_that_weighs_enough(
    documents: list[tuple[int, int]], target: int, buffer: int
) -> None:
    before = module._BUFFER
    module._BUFFER = buffer
    try:
        finder = BoundFinder(target)
        for number, weight in documents:
            finder.add(number, weight)
        below = finder.below()
    finally:
        module._BUFFER = before
    chosen = sorted(each for each in documents if each[0] < below)
    weight = sum(weight for _, weight in chosen)
    assert weight >= target or len(chosen) == len(documents)
    if len(chosen) < len(documents):
        assert weight - chosen[-1][1] < target


def test_a_larger_sample_contains_the_smaller_one_and_numbers_never_change() -> None:
    small, large = Selection(2**62), Selection(2**63)
    names = [f"shard/{n}.json" for n in range(2000)]
    few = {name for name in names if small.takes(name)}
    many = {name for name in names if large.takes(name)}
    assert few < many
    assert 400 < len(few) < 600
    assert 900 < len(many) < 1100
    assert (number_of("a.json"), number_of("a.jsonl", 3)) == (0x22E788E587F85022, 0x8A2C2AE123A7120F)


def test_everything_is_still_everything_in_another_process() -> None:
    copy = pickle.loads(pickle.dumps(ALL))
    assert copy == ALL
    assert copy.takes("a", 1)


def test_the_memory_depends_on_the_sample_not_on_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUFFER", 2000)

    def peak(documents: int) -> int:
        tracemalloc.start()
        finder = BoundFinder(1000)
        for n in range(documents):
            finder.add(number_of(str(n)), 1)
        finder.below()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(30_000) < peak(6_000) * 1.3


@pytest.mark.parametrize("target", [1, 10, 1000])
def test_a_corpus_that_is_too_small_is_taken_whole(target: int) -> None:
    finder = BoundFinder(target * 10)
    for n in range(target):
        finder.add(number_of(str(n)), 1)
    assert Selection(finder.below()) == ALL
