"""Torch's variable-length attention in plain loops, for tests on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import patch

import torch

__all__ = ["varlen_in_loops"]


@contextmanager
def varlen_in_loops() -> Iterator[None]:
    """Puts the loops in the place of the kernel, whose first arguments are the same since torch 2.10."""
    with patch("torch.nn.attention.varlen.varlen_attn", _loops):
        yield


def _loops(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
) -> torch.Tensor:
    bounds = cu_seq_q.tolist()
    assert bounds == cu_seq_k.tolist()
    # What the kernel itself demands (`mha_varlen_fwd` in torch's flash_api.cpp).
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.is_contiguous()
    assert cu_seq_k.is_contiguous()
    assert query.dtype in (torch.float16, torch.bfloat16)
    assert query.dtype == key.dtype == value.dtype
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert query.shape[-1] % 8 == 0
    assert query.shape[-1] <= 256
    assert max_q == max_k == max(end - start for start, end in pairwise(bounds))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for start, end in pairwise(bounds):
        scores = torch.einsum("qhd,khd->hqk", query[start:end].float(), key[start:end].float())
        weights = (scores / query.shape[-1] ** 0.5).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, value[start:end].float()).to(query.dtype)
    return out
