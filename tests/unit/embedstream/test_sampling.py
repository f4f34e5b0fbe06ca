from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstream.sampling import Total, ratio_total

Units = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=30)


@given(Units)
def test_a_sample_that_is_everything_is_exact(units: list[tuple[int, int]]) -> None:
    counted, sizes = [c for c, _ in units], [s for _, s in units]
    total = ratio_total(counted, sizes, [1.0] * len(units), sum(sizes))
    assert total.value == pytest.approx(sum(counted))
    assert total.error == 0
    assert (total.low, total.high) == (total.value, total.value)


def test_what_is_in_proportion_to_the_size_has_no_error() -> None:
    total = ratio_total([2, 4, 6], [1, 2, 3], [0.1, 0.2, 0.3], 1000)
    assert total.value == pytest.approx(2000)
    assert total.error == pytest.approx(0)


def test_errors_add_as_squares_and_one_unit_of_many_tells_little() -> None:
    assert Total(1, 3) + Total(2, 4) == Total(3, 5)
    assert ratio_total([10], [1], [0.5], 10).error == pytest.approx(50)
    assert ratio_total([], [], [], 10) == Total(0.0)
    assert Total(1, 10).low == 0


def test_nearly_all_ranges_hold_the_truth_though_sizes_differ_a_thousandfold() -> None:
    draw = random.Random(7)
    whole = [(draw.paretovariate(1.1) * 1000, draw.uniform(3.5, 5.5)) for _ in range(400)]
    truth = sum(size / per for size, per in whole)
    size = sum(size for size, _ in whole)
    held = 0
    for _ in range(300):
        ordered = sorted(((s / draw.random(), s, s / per) for s, per in whole), reverse=True)
        threshold = ordered[40][0]
        taken = ordered[:40]
        total = ratio_total(
            [c for *_, c in taken],
            [s for _, s, _ in taken],
            [min(1.0, s / threshold) for _, s, _ in taken],
            size,
        )
        held += total.low <= truth <= total.high
    assert 0.88 < held / 300 < 0.99
