from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedstream.search import Batch, Hit, Index, nearest


def batches(vectors: NDArray[np.float32], sizes: list[int]) -> Iterator[Batch]:
    """The vectors in batches of these sizes, the last size again and again; a row's id is its number."""
    start = 0
    while start < len(vectors):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]

        def hit(row: int, score: float, start: int = start) -> Hit:
            number = f"{start + row:03}"
            return Hit(score, number, number, 0, 1, None)

        yield Batch(vectors[start : start + size], hit)
        start += size


def unit_vectors(count: int, seed: int = 7) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@given(st.lists(st.integers(1, 70), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 9))
def test_the_nearest_are_those_of_a_full_comparison_however_they_are_batched(
    sizes: list[int], count: int, repeats: int
) -> None:
    vectors = unit_vectors(50)
    # Equal vectors have equal scores: the order among them is that of the ids.
    vectors[20 : 20 + repeats] = vectors[17]
    question = unit_vectors(1, 8)[0]
    hits = nearest(batches(vectors, sizes), question, count)
    scores = [round(float(np.dot(question.astype(float), vector.astype(float))), 6) for vector in vectors]
    wanted = sorted(range(50), key=lambda row: (-scores[row], row))[:count]
    assert [int(hit.id) for hit in hits] == wanted
    np.testing.assert_allclose([hit.score for hit in hits], [scores[row] for row in wanted], atol=2e-6)


def test_half_precision_is_compared_too() -> None:
    vectors = unit_vectors(30)
    hits = nearest(batches(vectors.astype(np.float16), [7]), vectors[11], 1)
    assert hits[0].id == "011"
    assert 0.999 < hits[0].score < 1.001


def test_nothing_is_nearest_where_there_is_nothing() -> None:
    assert nearest([], np.ones(3, np.float32), 5) == []
    assert Index([]).nearest(np.ones(3, np.float32), 5) == []
    assert Index([]).dim == 0
