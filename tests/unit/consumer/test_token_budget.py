from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consumer.encoder import ModelInfo, OutOfMemory
from consumer.split import Splitter
from consumer.token_budget import CPU_BUDGETS, cache_file, find_token_budget, measure
from tests.models import bert_tokenizer

Ids = NDArray[np.int32]


class Timed:
    """An encoder that takes time on a clock of its own, and memory for `fits` tokens."""

    splitter = Splitter(bert_tokenizer(), 128)
    token_budget = 0
    in_flight = 2

    def __init__(
        self,
        best: int,
        fits: int = 10**9,
        precision: str = "fp32",
        each: float = 0.01,
        token_seconds: float = 1e-6,
    ) -> None:
        self.info = ModelInfo("timed", "f" * 16, 4, 128, precision, "none", "cpu", layout="packed")
        self.now = 0.0
        self.tokens: list[int] = []
        self._best = best
        self._fits = fits
        self._each = each
        self._token_seconds = token_seconds

    def encode(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
        return self.submit(batch).result()

    def submit(self, batch: Sequence[Ids]) -> Timed:
        tokens = sum(map(len, batch))
        self.tokens.append(tokens)
        if tokens > self._fits:
            raise OutOfMemory
        # Fixed costs for each batch, and dearer tokens above the best size.
        self.now += self._each + tokens * self._token_seconds + max(0, tokens - self._best) * 1e-4
        return self

    def result(self) -> NDArray[np.float32]:
        return np.empty((0, 4), dtype=np.float32)

    def clock(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def rates(encoder: Timed, seconds: float = 100.0) -> dict[int, float]:
    return measure(encoder, CPU_BUDGETS, seconds, encoder.clock)


@pytest.mark.parametrize("best", CPU_BUDGETS)
def test_the_fastest_budget_is_found(best: int) -> None:
    found = rates(Timed(best))
    assert max(found, key=lambda budget: found[budget]) == best
    assert set(found) == set(CPU_BUDGETS)


def test_batches_are_as_large_as_the_budget_lets_them() -> None:
    encoder = Timed(2048)
    rates(encoder)
    assert all(any(budget - 128 < tokens <= budget for tokens in encoder.tokens) for budget in CPU_BUDGETS)


def test_a_budget_that_does_not_fit_is_left_out_with_all_above_it() -> None:
    assert set(rates(Timed(10**6, fits=3000))) == {1024, 2048}


def test_a_device_without_memory_for_any_still_gets_a_budget() -> None:
    assert rates(Timed(2048, fits=10)) == {}
    assert find_token_budget(Timed(2048, fits=10)) == min(CPU_BUDGETS)
    assert not cache_file().exists()


def test_measuring_ends_when_its_time_is_up() -> None:
    encoder = Timed(2048, each=3.0)
    assert set(rates(encoder, seconds=4.0)) == {CPU_BUDGETS[0]}
    assert encoder.now < 4.0 + 4 * 3.0


def test_a_budget_that_would_take_too_long_is_left_out() -> None:
    encoder = Timed(10**6, token_seconds=1e-4)
    assert set(rates(encoder, seconds=1.7)) == {1024, 2048, 4096}
    assert encoder.now <= 1.7


def test_a_budget_is_measured_once_for_each_way_to_run_a_model() -> None:
    first = Timed(2048)
    budget = find_token_budget(first)
    assert budget in CPU_BUDGETS
    assert first.tokens
    again = Timed(2048)
    assert find_token_budget(again) == budget
    assert not again.tokens
    other = Timed(2048, precision="bf16")
    find_token_budget(other)
    assert other.tokens
    remembered = json.loads(cache_file().read_text())
    assert len(remembered) == 2
    assert all("torch" in key and "f" * 16 in key and "none" in key for key in remembered)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}', "\x00"])
def test_a_broken_cache_is_written_anew(content: str) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    budget = find_token_budget(Timed(2048))
    assert budget in json.loads(cache_file().read_text()).values()


def test_a_cache_that_can_not_be_written_costs_nothing_but_the_measuring(home: Path) -> None:
    (home / "embedstream").write_text("a file where the folder belongs")
    assert find_token_budget(Timed(2048)) in CPU_BUDGETS
