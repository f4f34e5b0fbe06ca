from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from consumer.embed import Embedder
from consumer.encoder import OutOfMemory
from consumer.queues import BoundedQueue, Closed
from consumer.records import EmbeddedWindow, Failure, Window
from embedstream.metrics import Metrics
from schemas.dead_letter import Reason
from tests.hash_encoder import HashEncoder, vector_of
from tests.unit.consumer.items import a_document, an_end


class Counting(HashEncoder):
    """Counts what it is given; out of memory above `limit` tokens a batch; fails on the id `poison`."""

    encoded = 0
    limit = 10**9
    poison = -1

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        if max(map(len, batch)) * len(batch) > self.limit:
            raise OutOfMemory
        if any(self.poison in ids for ids in batch):
            raise RuntimeError("poison")
        self.encoded += len(batch)
        return super().encode(batch)


def run(encoder: HashEncoder, *windows: Window, metrics: Metrics | None = None) -> list[EmbeddedWindow]:
    waiting: BoundedQueue[Window] = BoundedQueue(100)
    done: BoundedQueue[EmbeddedWindow] = BoundedQueue(100)
    for window in windows:
        waiting.put(window)
    waiting.close()
    Embedder(waiting, done, encoder, metrics or Metrics(), stopping=lambda: False, moved=lambda: None).run()
    found = []
    with pytest.raises(Closed):
        while (each := done.get(0)) is not None:
            found.append(each)
    return found


def test_each_passage_gets_its_own_vector_in_order() -> None:
    window = Window(1, (a_document(lengths=(9, 3)), an_end(), a_document(offset=1, lengths=(5, 7, 2))), 0)
    (embedded,) = run(HashEncoder(), window)
    expected = [vector_of(passage.token_ids) for item in window.documents for passage in item.passages]
    for outcome, vector in zip(embedded.outcomes, expected, strict=True):
        assert not isinstance(outcome, Failure)
        assert np.array_equal(outcome, vector)


def test_a_window_without_documents_passes_through() -> None:
    (embedded,) = run(HashEncoder(), Window(1, (an_end(),), 0))
    assert embedded.outcomes == ()


def test_what_repeats_within_a_window_is_encoded_once() -> None:
    encoder, metrics = Counting(), Metrics()
    window = Window(1, tuple(a_document(offset=offset, lengths=(4, 6)) for offset in range(10)), 0)
    (embedded,) = run(encoder, window, metrics=metrics)
    assert encoder.encoded == 2
    assert len(embedded.outcomes) == 20
    assert metrics.registry.get_sample_value("embedstream_duplicate_passages_total") == 18
    assert metrics.registry.get_sample_value("embedstream_tokens_total") == 10


def test_a_poisonous_passage_costs_itself_only() -> None:
    encoder = Counting()
    encoder.poison = 2  # the ids of each document's second passage
    window = Window(1, (a_document(lengths=(4, 6, 5)),), 0)
    (embedded,) = run(encoder, window)
    first, second, third = embedded.outcomes
    assert isinstance(second, Failure)
    assert second.reason == Reason.ENCODE_FAILED
    assert not isinstance(first, Failure)
    assert not isinstance(third, Failure)


def test_out_of_memory_halves_the_budget_for_the_next_window_too_and_it_grows_back() -> None:
    encoder, metrics = Counting(token_budget=400), Metrics()
    encoder.limit = 120
    windows = [Window(n, (a_document(offset=n, lengths=tuple(range(1, 61))),), 0) for n in range(80)]
    waiting: BoundedQueue[Window] = BoundedQueue(100)
    done: BoundedQueue[EmbeddedWindow] = BoundedQueue(100)
    for window in windows:
        waiting.put(window)
    waiting.close()
    embedder = Embedder(waiting, done, encoder, metrics, stopping=lambda: False, moved=lambda: None)
    embedder.run()
    splits = metrics.registry.get_sample_value("embedstream_oom_splits_total")
    assert splits is not None
    # The first window halves twice; after that only a budget that grew past the limit does.
    assert 2 <= splits <= 8
    assert len(done) == 80


def test_what_waits_is_told_as_it_is_when_it_is_asked() -> None:
    waiting: BoundedQueue[Window] = BoundedQueue(2)
    done: BoundedQueue[EmbeddedWindow] = BoundedQueue(2)
    metrics = Metrics()
    embedder = Embedder(waiting, done, HashEncoder(), metrics, stopping=lambda: False, moved=lambda: None)

    def depth() -> float | None:
        return metrics.registry.get_sample_value("embedstream_queue_depth", {"stage": "encode"})

    assert depth() == 0
    waiting.put(Window(1, (a_document(),), 0))
    assert depth() == 1
    waiting.close()
    embedder.run()
    assert depth() == 0


def test_the_rate_is_measured() -> None:
    waiting: BoundedQueue[Window] = BoundedQueue(1)
    done: BoundedQueue[EmbeddedWindow] = BoundedQueue(1)
    waiting.put(Window(1, (a_document(lengths=(50,)),), 0))
    waiting.close()
    embedder = Embedder(
        waiting, done, HashEncoder(seconds=0.05), Metrics(), stopping=lambda: False, moved=lambda: None
    )
    assert embedder.tokens_per_second() is None
    embedder.run()
    rate = embedder.tokens_per_second()
    assert rate is not None
    assert 0 < rate <= 50 / 0.05
