from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.batch import MOST_PADDING, is_small, padding, plan_batches
from consumer.token_budget import CPU_BUDGETS

LENGTHS = st.lists(st.integers(1, 600), max_size=200)
BUDGETS = st.integers(1, 5000)


@given(LENGTHS, BUDGETS)
def test_every_passage_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, BUDGETS)
def test_a_padded_batch_keeps_the_budget_unless_it_is_one_passage(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, BUDGETS)
def test_passages_come_sorted_with_the_longest_first(lengths: list[int], budget: int) -> None:
    order = [lengths[index] for batch in plan_batches(lengths, budget) for index in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, BUDGETS)
def test_a_batch_is_closed_only_when_the_next_passage_does_not_fit_or_would_be_padded(
    lengths: list[int], budget: int
) -> None:
    batches = plan_batches(lengths, budget)
    for batch, following in pairwise(batches):
        computed = (len(batch) + 1) * lengths[batch[0]]
        own = sum(lengths[index] for index in (*batch, following[0]))
        may_end = not is_small(len(batch) * lengths[batch[0]], budget)
        assert computed > budget or (may_end and own < (1 - MOST_PADDING) * computed)


@given(LENGTHS, BUDGETS)
def test_a_batch_of_some_size_has_little_padding(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        if not is_small((len(batch) - 1) * lengths[batch[0]], budget):
            assert padding(lengths, [batch]) <= MOST_PADDING + 1e-9


@pytest.mark.parametrize("budget", CPU_BUDGETS)
def test_few_passages_of_mixed_lengths_are_hardly_padded(budget: int) -> None:
    """A slow CPU's window of two seconds: some 30 passages from a sentence to a window of 512 tokens."""
    drawn = random.Random(budget)
    windows = [[drawn.randint(20, 512) for _ in range(38)] for _ in range(50)]
    own = sum(map(sum, windows))
    computed = sum(
        len(batch) * max(window[index] for index in batch)
        for window in windows
        for batch in plan_batches(window, budget)
    )
    assert 1 - own / computed <= {1024: 0.03, 2048: 0.03, 4096: 0.04, 8192: 0.07}[budget]


def test_passages_of_one_length_keep_their_order() -> None:
    assert plan_batches([5, 5, 5, 5, 5], 10) == [[0, 1], [2, 3], [4]]


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        plan_batches([1], 0)


def test_padding_is_the_share_of_computed_tokens_that_no_passage_has() -> None:
    assert padding([4, 2, 3], [[0, 1], [2]]) == pytest.approx(2 / 11)
    assert padding([], []) == 0.0


@given(LENGTHS, BUDGETS)
def test_sorting_never_pads_more_than_the_order_of_arrival(lengths: list[int], budget: int) -> None:
    planned = padding(lengths, plan_batches(lengths, budget))
    assert 0 <= planned <= padding(lengths, [list(range(len(lengths)))]) + 1e-9


@given(LENGTHS, BUDGETS)
def test_a_batch_without_padding_is_filled_with_tokens(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget, padded=False)
    assert [index for batch in batches for index in batch] == sorted(
        range(len(lengths)), key=lambda index: -lengths[index]
    )
    tokens = [sum(lengths[index] for index in batch) for batch in batches]
    assert all(count <= budget or len(batch) == 1 for count, batch in zip(tokens, batches, strict=True))
    for count, following in zip(tokens, batches[1:], strict=False):
        assert count + lengths[following[0]] > budget
