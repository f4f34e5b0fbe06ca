"""Attention within each of many packed passages, never across them; one kernel for each kind of device.

A kernel takes queries, keys and values as they lie in the output of one fused projection, shape
(tokens, 3, heads, size of a head), and gives shape (tokens, heads * size of a head).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional

from consumer.packed import Packed

__all__ = ["Attention", "grouped", "reference", "varlen"]

Attention: TypeAlias = Callable[[torch.Tensor, Packed], torch.Tensor]

# Scores of a step, for one head: with two bytes each for a dozen heads they stay in a core's cache.
STEP_SCORES = 1 << 17
# Above this many tokens the whole matrix of scores is too much memory.
LONGEST_WITH_SCORES = 1024


def varlen(qkv: torch.Tensor, packed: Packed) -> torch.Tensor:
    """FlashAttention over packed passages, on a CUDA device in half precision."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)
    # Only what all versions since 2.10 take in the same place; their scale is the one wanted here.
    attended = varlen_attn(query, key, value, packed.bounds, packed.bounds, packed.longest, packed.longest)
    assert isinstance(attended, torch.Tensor)
    return attended.flatten(1)


def grouped(qkv: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Passages of equal length together, so that no mask is needed; for a CPU.

    Torch's fused kernel is slow there for the small heads of small models. In bf16, two plain products with
    the scores between them in the cache take two thirds of its time.
    """
    tokens, _, heads, size = qkv.shape
    attended = qkv.new_empty(tokens, heads, size)
    for start, count, length in _runs(packed.lengths):
        plain = qkv.dtype == torch.bfloat16 and length <= LONGEST_WITH_SCORES
        step = max(1, STEP_SCORES // length**2) if plain else count
        for first in range(start, start + count * length, step * length):
            end = min(first + step * length, start + count * length)
            group = qkv[first:end].view(-1, length, 3, heads, size).permute(2, 0, 3, 1, 4)
            found = _plain(group) if plain else _fused(group)
            attended[first:end].view(-1, length, heads, size).transpose(1, 2).copy_(found)
    return attended.flatten(1)


def reference(qkv: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Passage by passage, as written in any textbook: what the others are tested against."""
    size = qkv.shape[-1]
    found = []
    for passage in torch.split(qkv, list(packed.lengths)):
        query, key, value = passage.permute(1, 2, 0, 3)
        scores = query @ key.transpose(-1, -2) / size**0.5
        found.append((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    return torch.cat(found)


def _plain(group: torch.Tensor) -> torch.Tensor:
    """From (3, passages, heads, length, size) to (passages, heads, length, size)."""
    _, passages, heads, length, size = group.shape
    query, key, value = group.reshape(3, passages * heads, length, size)
    nothing = query.new_empty(1)
    scores = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), value).view(passages, heads, length, size)


def _fused(group: torch.Tensor) -> torch.Tensor:
    query, key, value = group.unbind(0)
    return functional.scaled_dot_product_attention(query, key, value)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length: where the first starts, how many they are, their length."""
    start = 0
    for length, run in itertools.groupby(lengths):
        count = sum(1 for _ in run)
        yield start, count, length
        start += count * length
