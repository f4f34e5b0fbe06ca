from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumer.encoder import Encoder, ModelInfo, OutOfMemory, PipelinedEncoder
from consumer.records import Failure
from consumer.robust import Stopped, encode_passages
from consumer.split import Splitter
from embedstream.errors import TryAgainError
from schemas.dead_letter import Reason
from tests.models import bert_tokenizer

Ids = NDArray[np.int32]
INFO = ModelInfo("spy", "0" * 16, 4, 512, "fp32", "none", "cpu")
SPLITTER = Splitter(bert_tokenizer(), 512)


@dataclass
class SpyEncoder:
    """Turns each passage into a vector that tells its first id, and fails where it is told to."""

    fits: int = 10_000
    bad: frozenset[int] = frozenset()
    vectors: dict[int, list[float]] = field(default_factory=dict)
    token_budget: int = 64
    info: ModelInfo = INFO
    splitter: Splitter = SPLITTER
    seen: list[list[int]] = field(default_factory=list)

    def encode(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
        firsts = [int(ids[0]) for ids in batch]
        self.seen.append(firsts)
        if len(batch) * max(len(ids) for ids in batch) > self.fits:
            raise OutOfMemory("too little memory")
        if self.bad & set(firsts):
            raise ValueError("a bad passage\nwith details")
        return np.array(
            [self.vectors.get(first, [1.0, first, 0.0, 0.0]) for first in firsts], dtype=np.float32
        )


def passages(*lengths: int) -> list[Ids]:
    return [np.full(length, number, dtype=np.int32) for number, length in enumerate(lengths)]


def go_on() -> bool:
    return False


def told(outcome: NDArray[np.float32] | Failure) -> float:
    assert not isinstance(outcome, Failure)
    return float(outcome[1])


def test_outcomes_come_in_the_order_of_the_passages() -> None:
    outcomes, stats = encode_passages(SpyEncoder(), passages(3, 30, 1, 12, 30), stop=go_on)
    assert [told(outcome) for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert sum(batch.passages for batch in stats.batches) == 5
    assert sum(batch.tokens for batch in stats.batches) == 76
    assert (stats.oom_splits, stats.token_budget) == (0, 64)


def test_no_passages_make_no_call() -> None:
    encoder = SpyEncoder()
    outcomes, stats = encode_passages(encoder, [], stop=go_on)
    assert (outcomes, encoder.seen, stats.padding) == ([], [], 0.0)


def test_padding_is_told() -> None:
    _, stats = encode_passages(SpyEncoder(), passages(10, 5), stop=go_on)
    assert [batch.padded_tokens for batch in stats.batches] == [20]
    assert stats.padding == pytest.approx(0.25)


def test_out_of_memory_halves_the_budget_for_all_that_is_left() -> None:
    encoder = SpyEncoder(fits=20)
    outcomes, stats = encode_passages(encoder, passages(*[8] * 20), stop=go_on)
    assert [told(outcome) for outcome in outcomes] == list(range(20))
    # 8 passages (64 tokens), 4 (32), then 2 (16) to the end: the failing sizes are tried once only.
    assert [len(batch) for batch in encoder.seen] == [8, 4, *[2] * 10]
    assert (stats.oom_splits, stats.token_budget) == (2, 16)


def test_a_passage_that_does_not_fit_alone_fails_alone() -> None:
    outcomes, stats = encode_passages(SpyEncoder(fits=20), passages(8, 30, 8), stop=go_on)
    assert told(outcomes[0]) == 0
    assert told(outcomes[2]) == 2
    assert outcomes[1] == Failure(Reason.OUT_OF_MEMORY, "too little memory")
    assert stats.oom_splits == 1


def test_an_error_is_searched_for_down_to_the_passage() -> None:
    encoder = SpyEncoder(bad=frozenset({5}))
    outcomes, stats = encode_passages(encoder, passages(*[4] * 16), stop=go_on)
    assert outcomes[5] == Failure(Reason.ENCODE_FAILED, "ValueError: a bad passage\nwith details")
    assert [told(outcome) for index, outcome in enumerate(outcomes) if index != 5] == [
        index for index in range(16) if index != 5
    ]
    assert len(encoder.seen) == 9
    assert stats.oom_splits == 0


@given(
    st.lists(st.integers(1, 40), max_size=40),
    st.sets(st.integers(0, 39)),
    st.sets(st.integers(0, 39)),
    st.integers(20, 80),
)
def test_whatever_fails_the_rest_is_encoded(
    lengths: list[int], bad: set[int], broken: set[int], fits: int
) -> None:
    vectors = {index: [float("nan")] * 4 for index in broken}
    encoder = SpyEncoder(fits=fits, bad=frozenset(bad), vectors=vectors)
    outcomes, _ = encode_passages(encoder, passages(*lengths), stop=go_on)
    assert len(outcomes) == len(lengths)
    for index, (length, outcome) in enumerate(zip(lengths, outcomes, strict=True)):
        if length > fits:
            assert isinstance(outcome, Failure)
            assert outcome.reason is Reason.OUT_OF_MEMORY
        elif index in bad:
            assert isinstance(outcome, Failure)
            assert outcome.reason is Reason.ENCODE_FAILED
        elif index in broken:
            assert isinstance(outcome, Failure)
            assert outcome.reason is Reason.NOT_FINITE
        else:
            assert told(outcome) == index


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ([0.1, float("nan"), 0.0, 0.0], Reason.NOT_FINITE),
        ([0.1, float("inf"), 0.0, 0.0], Reason.NOT_FINITE),
        ([0.0, -0.0, 0.0, 0.0], Reason.ZERO_VECTOR),
    ],
)
def test_a_vector_that_means_nothing_is_a_failure(vector: list[float], reason: Reason) -> None:
    outcomes, _ = encode_passages(SpyEncoder(vectors={1: vector}), passages(4, 4, 4), stop=go_on)
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].reason is reason
    assert (told(outcomes[0]), told(outcomes[2])) == (0, 2)


def test_stop_is_obeyed_between_batches() -> None:
    encoder = SpyEncoder(token_budget=8)
    with pytest.raises(Stopped):
        encode_passages(encoder, passages(8, 8, 8), stop=lambda: len(encoder.seen) == 2)
    assert len(encoder.seen) == 2


def test_a_smaller_budget_may_be_given() -> None:
    encoder = SpyEncoder()
    _, stats = encode_passages(encoder, passages(*[8] * 4), stop=go_on, token_budget=16)
    assert [len(batch) for batch in encoder.seen] == [2, 2]
    assert stats.token_budget == 16


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (4,)])
def test_vectors_of_a_wrong_shape_are_never_taken(shape: tuple[int, ...]) -> None:
    class Wrong(SpyEncoder):
        def encode(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
            return np.ones(shape if len(batch) == 2 else (len(batch), 3), dtype=np.float32)

    outcomes, _ = encode_passages(Wrong(), passages(4, 4), stop=go_on)
    assert [getattr(outcome, "reason", None) for outcome in outcomes] == [Reason.ENCODE_FAILED] * 2


def test_a_broken_device_is_not_blamed_on_the_passages() -> None:
    class Broken(SpyEncoder):
        def encode(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
            raise TryAgainError("the GPU failed")

    encoder: Encoder = Broken()
    with pytest.raises(TryAgainError):
        encode_passages(encoder, passages(4, 4), stop=go_on)


@dataclass
class Pipelined(SpyEncoder):
    """Works on `in_flight` batches that share the memory, and fails when a batch is asked for, or begun."""

    in_flight: int = 3
    fails_late: bool = False
    flying: list[int] = field(default_factory=list)
    most: int = 0

    def submit(self, batch: Sequence[Ids]) -> Flight:
        tokens = len(batch) * max(len(ids) for ids in batch)
        if not self.fails_late and sum(self.flying) + tokens > self.fits:
            raise OutOfMemory("too little memory")
        self.flying.append(tokens)
        self.most = max(self.most, len(self.flying))
        return Flight(self, batch, tokens)


@dataclass
class Flight:
    encoder: Pipelined
    batch: Sequence[Ids]
    tokens: int

    def result(self) -> NDArray[np.float32]:
        held = sum(self.encoder.flying)
        assert self.encoder.flying.pop(0) == self.tokens, "the oldest is asked for first"
        if held > self.encoder.fits:
            raise OutOfMemory("too little memory")
        return self.encoder.encode(self.batch)


def test_batches_are_begun_before_earlier_ones_are_done() -> None:
    encoder = Pipelined(token_budget=8)
    assert isinstance(encoder, PipelinedEncoder)
    outcomes, _ = encode_passages(encoder, passages(*[8] * 10), stop=go_on)
    assert [told(outcome) for outcome in outcomes] == list(range(10))
    assert encoder.most == 3
    assert not encoder.flying


@given(
    st.lists(st.integers(1, 40), max_size=40),
    st.sets(st.integers(0, 39)),
    st.integers(40, 200),
    st.booleans(),
)
def test_what_fails_in_flight_costs_itself_alone(
    lengths: list[int], bad: set[int], fits: int, fails_late: bool
) -> None:
    """Every passage fits when it is alone: none may be given up because of others in flight."""
    encoder = Pipelined(fits=fits, bad=frozenset(bad), fails_late=fails_late)
    outcomes, _ = encode_passages(encoder, passages(*lengths), stop=go_on)
    for index, outcome in enumerate(outcomes):
        if index in bad:
            assert isinstance(outcome, Failure)
            assert outcome.reason is Reason.ENCODE_FAILED
        else:
            assert told(outcome) == index
    assert not encoder.flying


def test_a_packed_batch_counts_its_own_tokens() -> None:
    encoder = SpyEncoder(info=replace(INFO, layout="packed"))
    _, stats = encode_passages(encoder, passages(50, 7, 7, 40), stop=go_on)
    assert [len(batch) for batch in encoder.seen] == [1, 3]
    assert [batch.padded_tokens for batch in stats.batches] == [50, 54]
    assert stats.padding == 0.0
