from __future__ import annotations

import pytest
from rich.console import Console

from tests.bench.gpu import MIXED, Case, compare, show


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, MIXED])
def test_the_measurement_of_a_gpu_is_made_right_on_a_cpu_too(length: int | str) -> None:
    found = compare(Case("tiny", "mean", 2, 64, 4, length), "cpu", "fp32", 1, flop=2e9, compiled=False)
    show(found, Console(width=200))
    assert set(found["ways"]) == {"sentence-transformers", "ours", "ours, texts to vectors"}
    for way in found["ways"].values():
        assert way["lowest_cosine"] > 0.99999
        assert 0 < way["share"] < 1
    assert found["run"]["ours"].startswith("packed")
