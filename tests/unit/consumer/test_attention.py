from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer import attention as module
from consumer.attention import grouped, reference, varlen
from consumer.packed import Packed
from tests.attention import varlen_in_loops

HEADS, SIZE = 3, 8
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def of_lengths(lengths: list[int]) -> Packed:
    return Packed.of([np.zeros(each, dtype=np.int32) for each in lengths], torch.device("cpu"), 1)


def drawn(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(tokens)
    return torch.randn(tokens, 3, HEADS, SIZE).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
@settings(max_examples=40)
@given(lengths=LENGTHS)
@example(lengths=[5, 5, 5, 2, 2, 9])
@example(lengths=[1])
@example(lengths=[600, 600])
def test_grouped_attention_is_the_textbooks(dtype: torch.dtype, tolerance: float, lengths: list[int]) -> None:
    qkv = drawn(sum(lengths), dtype)
    found = grouped(qkv, of_lengths(lengths))
    assert found.dtype == dtype
    assert found.shape == (sum(lengths), HEADS * SIZE)
    assert torch.allclose(found.float(), reference(qkv.float(), of_lengths(lengths)), atol=tolerance)


def test_a_group_too_large_for_the_cache_is_taken_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = drawn(70, torch.bfloat16)
    whole = grouped(qkv, of_lengths([10] * 7))
    monkeypatch.setattr(module, "STEP_SCORES", 250)
    assert torch.allclose(grouped(qkv, of_lengths([10] * 7)), whole, atol=1e-2)


def test_long_passages_need_no_matrix_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = drawn(60, torch.bfloat16)
    expected = reference(qkv.float(), of_lengths([30, 30]))
    monkeypatch.setattr(module, "LONGEST_WITH_SCORES", 20)
    monkeypatch.setattr(module, "_plain", None)
    assert torch.allclose(grouped(qkv, of_lengths([30, 30])).float(), expected, atol=3e-2)


@given(LENGTHS)
def test_varlen_hands_the_kernel_what_it_must_know(lengths: list[int]) -> None:
    """The kernel itself needs a GPU: here the same arguments go to loops."""
    qkv = drawn(sum(lengths), torch.float16)
    with varlen_in_loops():
        found = varlen(qkv, of_lengths(lengths))
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), reference(qkv.float(), of_lengths(lengths)), atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torchs_own_function_takes_what_varlen_hands_it(dtype: torch.dtype) -> None:
    """Of the installed torch: all but the numbers, which a meta device does not have."""
    meta = torch.device("meta")
    packed = Packed.of([np.zeros(each, dtype=np.int32) for each in (7, 1, 4)], meta, 1)
    found = varlen(torch.empty(12, 3, HEADS, SIZE, dtype=dtype, device=meta), packed)
    assert (found.shape, found.dtype, found.device) == ((12, HEADS * SIZE), dtype, meta)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_varlen_attention_is_the_textbooks(dtype: torch.dtype) -> None:
    lengths = [512, 511, 129, 128, 127, 33, 2, 1, 1]
    ids = [np.zeros(each, dtype=np.int32) for each in lengths]
    packed = Packed.of(ids, torch.device("cuda"), 1)
    qkv = torch.randn(sum(lengths), 3, 12, 32, device="cuda", dtype=dtype)
    assert torch.allclose(varlen(qkv, packed).float(), reference(qkv.float(), packed), atol=2e-2)
