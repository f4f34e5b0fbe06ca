"""Encodes passages whatever happens: one that can't be encoded costs itself, not its neighbours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumer.batch import plan_batches
from consumer.encoder import Encoder, OutOfMemory, Pending, PipelinedEncoder
from consumer.records import Failure
from embedstream.errors import EmbedstreamError
from schemas.dead_letter import Reason

__all__ = ["BatchStats", "EncodeStats", "Stopped", "encode_passages"]


class Stopped(Exception):
    """Encoding was asked to stop; nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class BatchStats:
    """A batch that was encoded: how many passages, their tokens, and those that padding made of them."""

    passages: int
    tokens: int
    padded_tokens: int


@dataclass(slots=True)
class EncodeStats:
    """What encoding took.

    Attributes:
        token_budget: What is left of the budget: start the next call with it.
        oom_splits: How often the budget was halved because the device ran out of memory.
        batches: Those that succeeded, in order.
    """

    token_budget: int
    oom_splits: int = 0
    batches: list[BatchStats] = field(default_factory=list)

    @property
    def padding(self) -> float:
        """Share of the computed tokens that was padding, from 0 to below 1."""
        computed = sum(batch.padded_tokens for batch in self.batches)
        return 1 - sum(batch.tokens for batch in self.batches) / computed if computed else 0.0


def encode_passages(
    encoder: Encoder,
    token_ids: Sequence[NDArray[np.int32]],
    *,
    stop: Callable[[], bool],
    token_budget: int | None = None,
) -> tuple[list[NDArray[np.float32] | Failure], EncodeStats]:
    """Encodes passages in batches of like lengths.

    A device out of memory gets half the budget for all that is left, and one batch at a time; any other error
    of a batch is searched for by halves, down to its passages.

    Args:
        encoder: The model.
        token_ids: int32 ids of each passage, special tokens included.
        stop: Asked before each batch.
        token_budget: Most tokens of a batch; the encoder's own by default.

    Returns:
        For each passage, in order, its unit vector (float32, shape (dim,)) or why there is none; and what it
        took.

    Raises:
        Stopped: `stop()` was true.
        EmbedstreamError: The encoder says that no passage can be encoded any more.
    """
    run = _Run(encoder, token_ids, EncodeStats(token_budget or encoder.token_budget))
    while run.goes_on():
        if stop():
            raise Stopped
        run.step()
    return [run.outcomes[index] for index in range(len(token_ids))], run.stats


class _Run:
    """The batches of one call that wait, and those that the device works on."""

    def __init__(self, encoder: Encoder, token_ids: Sequence[NDArray[np.int32]], stats: EncodeStats) -> None:
        self.stats = stats
        self.outcomes: dict[int, NDArray[np.float32] | Failure] = {}
        self._encoder = encoder
        self._pipelined = encoder if isinstance(encoder, PipelinedEncoder) else None
        self._in_flight = self._pipelined.in_flight if self._pipelined else 1
        self._token_ids = token_ids
        self._lengths = [len(ids) for ids in token_ids]
        self._is_padded = encoder.info.layout == "padded"
        self._waiting = deque(plan_batches(self._lengths, stats.token_budget, padded=self._is_padded))
        self._flying: deque[tuple[list[int], Pending, bool]] = deque()

    def goes_on(self) -> bool:
        return bool(self._waiting or self._flying)

    def step(self) -> None:
        """Submits a batch while the device takes more, else waits for the oldest."""
        submits = self._waiting and len(self._flying) < self._in_flight
        if submits:
            batch, pending, alone = self._waiting.popleft(), None, self._in_flight == 1
        else:
            batch, pending, alone = self._flying.popleft()
        try:
            if pending is None:
                self._flying.append((batch, self._submitted(batch), alone))
            else:
                self._take(batch, pending.result())
        except OutOfMemory as error:
            self._out_of_memory(batch, alone, error)
        except EmbedstreamError:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], Reason.ENCODE_FAILED, f"{type(error).__name__}: {error}")
            else:
                half = len(batch) // 2
                self._waiting.extendleft((batch[half:], batch[:half]))

    def _submitted(self, batch: Sequence[int]) -> Pending:
        token_ids = [self._token_ids[index] for index in batch]
        if self._pipelined:
            return self._pipelined.submit(token_ids)
        return _Encoded(self._encoder.encode(token_ids))

    def _take(self, batch: Sequence[int], vectors: NDArray[np.float32]) -> None:
        if vectors.shape != (len(batch), self._encoder.info.dim):
            raise ValueError(f"the encoder gave shape {vectors.shape} for {len(batch)} passages")
        computed = self._computed(batch)
        tokens = sum(self._lengths[index] for index in batch)
        self.stats.batches.append(BatchStats(len(batch), tokens, computed))
        self.outcomes.update(zip(batch, vectors, strict=True))
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            self._fail(batch[row], Reason.NOT_FINITE, "the model's vector holds values that are not finite")
        for row in np.flatnonzero(~vectors.any(axis=1)).tolist():
            self._fail(batch[row], Reason.ZERO_VECTOR, "the model's vector is zero")

    def _out_of_memory(self, batch: list[int], alone: bool, error: OutOfMemory) -> None:
        if len(batch) > 1:
            self.stats.oom_splits += 1
            self.stats.token_budget = max(1, self._computed(batch) // 2)
            left = [index for each in (batch, *self._waiting) for index in each]
            lengths = [self._lengths[index] for index in left]
            planned = plan_batches(lengths, self.stats.token_budget, padded=self._is_padded)
            self._waiting = deque([left[place] for place in each] for each in planned)
        elif not alone:
            # Other batches may have held the memory: once more, with the device to itself.
            self._waiting.appendleft(batch)
        else:
            self._fail(batch[0], Reason.OUT_OF_MEMORY, str(error) or "out of memory")
        self._in_flight = 1

    def _computed(self, batch: Sequence[int]) -> int:
        """Tokens that the device computes for a batch."""
        lengths = [self._lengths[index] for index in batch]
        return len(batch) * max(lengths) if self._is_padded else sum(lengths)

    def _fail(self, index: int, reason: Reason, message: str) -> None:
        self.outcomes[index] = Failure(reason, message)


@dataclass(frozen=True, slots=True)
class _Encoded:
    vectors: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        return self.vectors
