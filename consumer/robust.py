"""Encodes passages whatever happens: one that can't be encoded costs itself, not its neighbours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from consumer.batch import plan_batches
from consumer.encoder import Encoder, OutOfMemory
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

    A device out of memory gets half the budget for all that is left; any other error of a batch is searched
    for by halves, down to its passages.

    Args:
        encoder: The model.
        token_ids: int32 ids of each passage, special tokens included.
        stop: Asked before each batch.
        token_budget: Most tokens of a batch, padding included; the encoder's own by default.

    Returns:
        For each passage, in order, its unit vector (float32, shape (dim,)) or why there is none; and what it
        took.

    Raises:
        Stopped: `stop()` was true.
        EmbedstreamError: The encoder says that no passage can be encoded any more.
    """
    stats = EncodeStats(token_budget or encoder.token_budget)
    lengths = [len(ids) for ids in token_ids]
    outcomes: dict[int, NDArray[np.float32] | Failure] = {}
    batches = deque(plan_batches(lengths, stats.token_budget))
    while batches:
        if stop():
            raise Stopped
        batch = batches.popleft()
        try:
            vectors = _encode(encoder, [token_ids[index] for index in batch])
        except OutOfMemory as error:
            if len(batch) == 1:
                outcomes[batch[0]] = Failure(Reason.OUT_OF_MEMORY, str(error) or "out of memory")
            else:
                stats.oom_splits += 1
                stats.token_budget = max(1, _padded(lengths, batch) // 2)
                batches = _planned_again([batch, *batches], lengths, stats.token_budget)
        except EmbedstreamError:
            raise
        except Exception as error:
            if len(batch) == 1:
                outcomes[batch[0]] = Failure(Reason.ENCODE_FAILED, f"{type(error).__name__}: {error}")
            else:
                half = len(batch) // 2
                batches.extendleft((batch[half:], batch[:half]))
        else:
            tokens = sum(lengths[index] for index in batch)
            stats.batches.append(BatchStats(len(batch), tokens, _padded(lengths, batch)))
            outcomes.update(zip(batch, map(_checked, vectors), strict=True))
    return [outcomes[index] for index in range(len(token_ids))], stats


def _encode(encoder: Encoder, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    vectors = encoder.encode(batch)
    if vectors.shape != (len(batch), encoder.info.dim):
        raise ValueError(f"the encoder gave shape {vectors.shape} for {len(batch)} passages")
    return vectors


def _padded(lengths: Sequence[int], batch: Sequence[int]) -> int:
    return len(batch) * max(lengths[index] for index in batch)


def _planned_again(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], token_budget: int
) -> deque[list[int]]:
    left = [index for batch in batches for index in batch]
    planned = plan_batches([lengths[index] for index in left], token_budget)
    return deque([left[place] for place in batch] for batch in planned)


def _checked(vector: NDArray[np.float32]) -> NDArray[np.float32] | Failure:
    if not np.isfinite(vector).all():
        return Failure(Reason.NOT_FINITE, "the model's vector holds values that are not finite")
    if not vector.any():
        return Failure(Reason.ZERO_VECTOR, "the model's vector is zero")
    return vector
