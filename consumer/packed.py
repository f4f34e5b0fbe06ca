"""Passages one behind the other, without padding: the input of the packed forward pass.

packed = Packed.of([np.array([101, 7, 102], dtype=np.int32)], device, vocabulary=30522)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Packed"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of passages on the device.

    What a kernel must know of the lengths is here as Python numbers too: asking the device for them would
    make the CPU wait for all that was submitted before.

    Attributes:
        ids: int32, shape (tokens,): token ids of all passages.
        positions: int32, shape (tokens,): the row of each token's position embedding.
        bounds: int32, shape (passages + 1,): where each passage starts, and the end of the last.
        passage: int32, shape (tokens,): which passage each token belongs to.
        lengths: tokens of each passage.
        longest: tokens of the longest passage; every layer asks for it.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    bounds: torch.Tensor
    passage: torch.Tensor
    lengths: tuple[int, ...]
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        """Works out what is derived."""
        object.__setattr__(self, "longest", max(self.lengths))

    @classmethod
    def of(
        cls,
        batch: Sequence[NDArray[np.int32]],
        device: torch.device,
        vocabulary: int,
        padding_id: int | None = None,
    ) -> Packed:
        """Packs passages, and copies them to the device at once, without waiting for it.

        Args:
            batch: token ids of each passage, at least one passage and one token each.
            device: where the model is.
            vocabulary: how many ids the model knows.
            padding_id: for the RoBERTa family, whose positions count from there on and skip that id (as
                transformers' `create_position_ids_from_input_ids` does); None counts from 0.

        Raises:
            IndexError: an id that the model does not know, which a GPU would not survive.
        """
        lengths = tuple(map(len, batch))
        total = sum(lengths)
        cuts = np.array([0, *accumulate(lengths)], dtype=np.int32)
        # From pinned memory a copy to a GPU need not be waited for; torch frees it only after the copy.
        host = torch.empty(3 * total + len(cuts), dtype=torch.int32, pin_memory=device.type == "cuda")
        parts = np.split(host.numpy(), (total, 2 * total, 3 * total))
        np.concatenate(batch, out=parts[0])
        if parts[0].max() >= vocabulary:
            raise IndexError(f"token id {parts[0].max()} is beyond the model's {vocabulary}")
        parts[1][:] = _positions(parts[0], cuts, padding_id)
        parts[2][:] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        parts[3][:] = cuts
        moved = host.to(device, non_blocking=True)
        ids, positions, passage, bounds = torch.split(moved, [total, total, total, len(cuts)])
        return cls(ids, positions, bounds, passage, lengths)


def _positions(ids: NDArray[np.int32], cuts: NDArray[np.int32], padding_id: int | None) -> NDArray[np.int32]:
    positions: NDArray[np.int32]
    lengths = np.diff(cuts)
    if padding_id is None:
        positions = np.arange(len(ids), dtype=np.int32) - np.repeat(cuts[:-1], lengths)
        return positions
    counted = (ids != padding_id).astype(np.int32)
    seen = np.cumsum(counted, dtype=np.int32)
    before = np.repeat(np.concatenate(([0], seen))[cuts[:-1]].astype(np.int32), lengths)
    positions = (seen - before) * counted + np.int32(padding_id)
    return positions
