"""The encode stage: windows of passages in, windows with vectors out, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from consumer.cache import VectorCache
from consumer.encoder import Encoder
from consumer.queues import BoundedQueue, Closed
from consumer.records import EmbeddedWindow, Failure, Window
from consumer.robust import Stopped, encode_passages
from embedstream.logs import get_logger
from embedstream.metrics import Metrics

__all__ = ["Embedder"]

# How much of the measured rate is the newest window's: the rate settles in a few windows and follows changes.
RATE_WEIGHT = 0.3
# After the device ran out of memory: back to the full budget in about 30 windows.
BUDGET_GROWTH = 1.02

_log = get_logger("embed")


class Embedder:
    """Encodes window after window, ahead of their delivery."""

    def __init__(
        self,
        windows: BoundedQueue[Window],
        embedded: BoundedQueue[EmbeddedWindow],
        encoder: Encoder,
        metrics: Metrics,
        *,
        stopping: Callable[[], bool],
        moved: Callable[[], None],
        cache: VectorCache | None = None,
    ) -> None:
        """Connects the stage.

        Args:
            windows: where windows come from.
            embedded: where they go.
            encoder: the model.
            metrics: counts tokens and times batches.
            stopping: while true, what is not encoded yet is left for later.
            moved: called before each batch.
            cache: knows vectors that need not be computed; the windows were looked up in it.
        """
        self._windows = windows
        self._embedded = embedded
        self._encoder = encoder
        self._metrics = metrics
        self._stopping = stopping
        self._moved = moved
        self._cache = cache
        self._rate: float | None = None
        self._passage_tokens = 0.0
        self._busy = False
        self._token_budget = encoder.token_budget
        metrics.queue_depth.labels(stage="encode").set_function(lambda: len(windows))

    def tokens_per_second(self) -> float | None:
        """The encoder's rate over recent windows; None until the first is done."""
        return self._rate

    def passage_tokens(self) -> float:
        """Mean length of the last window's passages, in tokens; 0 before the first."""
        return self._passage_tokens

    def is_idle(self) -> bool:
        """Whether the encoder waits for a window."""
        return not self._busy and not len(self._windows)

    def run(self) -> None:
        """Works until the queue of windows is closed or the daemon stops, then closes the next queue."""
        try:
            while not self._stopping():
                window = self._windows.get(0.2)
                if window is not None:
                    self._busy = True
                    self._embedded.put(self._encode(window))
                    self._busy = False
        except (Closed, Stopped):
            pass
        finally:
            # A stage before this one may be waiting for room.
            self._windows.close(discard=True)
            self._embedded.close()

    def _encode(self, window: Window) -> EmbeddedWindow:
        distinct, places = window.distinct
        outcomes = (
            self._recalled(self._cache, window) if self._cache else self._encoded(distinct, len(distinct))
        )
        self._count(window, outcomes, places)
        self._metrics.duplicate_passages_total.inc(len(places) - len(distinct))
        return EmbeddedWindow(window, tuple(outcomes[place] for place in places))

    def _recalled(self, cache: VectorCache, window: Window) -> Sequence[NDArray[np.float32] | Failure]:
        """The outcomes of a window's distinct passages: encodes what the cache does not know."""
        distinct, _ = window.distinct
        recalled = cache.recall(window)
        unknown = [place for place, vector in enumerate(recalled.vectors) if vector is None]
        encoded = self._encoded([distinct[place] for place in unknown], len(distinct))
        delivered = cache.remember([recalled.keys[place] for place in unknown], encoded)
        new = dict(zip(unknown, delivered, strict=True))
        return [new[place] if vector is None else vector for place, vector in enumerate(recalled.vectors)]

    def _encoded(
        self, passages: Sequence[NDArray[np.int32]], distinct: int
    ) -> Sequence[NDArray[np.float32] | Failure]:
        """Encodes passages, of so many in the window, and measures how fast."""
        started = time.monotonic()
        outcomes = self._outcomes(passages) if passages else []
        seconds = time.monotonic() - started
        tokens = sum(len(ids) for ids in passages)
        self._metrics.tokens_total.inc(tokens)
        self._metrics.stage_duration_seconds.labels(stage="encode").observe(seconds)
        # The few that a cache did not know make no full batches: by their rate, windows would shrink.
        if tokens and 2 * len(passages) >= distinct:
            rate = tokens / max(seconds, 1e-6)
            self._passage_tokens = tokens / len(passages)
            self._rate = rate if self._rate is None else RATE_WEIGHT * rate + (1 - RATE_WEIGHT) * self._rate
        return outcomes

    def _count(
        self, window: Window, outcomes: Sequence[NDArray[np.float32] | Failure], places: Sequence[int]
    ) -> None:
        records = len(window.documents)
        failed = 0
        # Hardly ever is there a failure to look for.
        if any(isinstance(each, Failure) for each in outcomes):
            each_place = iter(places)
            for document in window.documents:
                own = [outcomes[next(each_place)] for _ in document.passages]
                failed += any(isinstance(each, Failure) for each in own)
        self._metrics.records_total.labels(stage="encode", result="ok").inc(records - failed)
        self._metrics.records_total.labels(stage="encode", result="dead_letter").inc(failed)

    def _stopping_at_a_batch(self) -> bool:
        self._moved()
        return self._stopping()

    def _outcomes(self, distinct: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32] | Failure]:
        outcomes, stats = encode_passages(
            self._encoder, distinct, stop=self._stopping_at_a_batch, token_budget=self._token_budget
        )
        for batch in stats.batches:
            self._metrics.batch_tokens.observe(batch.padded_tokens)
            self._metrics.batch_passages.observe(batch.passages)
        self._metrics.padding_ratio.set(stats.padding)
        if stats.oom_splits:
            self._metrics.oom_splits_total.inc(stats.oom_splits)
            _log.warning("out_of_memory", splits=stats.oom_splits, token_budget=stats.token_budget)
        # Memory may come back: another process may have held it.
        grown = stats.token_budget if stats.oom_splits else 1 + int(stats.token_budget * BUDGET_GROWTH)
        self._token_budget = min(grown, self._encoder.token_budget)
        return outcomes
