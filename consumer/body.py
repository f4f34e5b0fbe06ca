"""Chooses how a model is run: the fastest way that is known for it and proves right, else the plain one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional

from consumer.attention import Attention, grouped, varlen
from consumer.bert import UnsupportedModelError
from consumer.model_files import first_line
from consumer.transformer import Body

__all__ = ["EmbeddingModel", "Made", "find_packed", "sample_passages"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Far below what rounding costs, far above what two passages that see each other would have.
LEAST_COSINE = 0.995
SAMPLE_LENGTHS = (2, 40, 17, 17, 3)
# FlashAttention's first architecture is Ampere; its heads are multiples of 8 up to 256 numbers.
AMPERE = (8, 0)
HEAD_STEP, WIDEST_HEAD = 8, 256


@dataclass(frozen=True, slots=True)
class Made:
    """A way to run a model, its name in parts, and which faster one was refused, with the reason."""

    body: Body
    layout: Literal["packed", "padded"]
    attention: str
    compiled: bool
    refused: str


class Make(Protocol):
    """Chooses the way to run a loaded model."""

    def __call__(self, precision: str, window: int, prefix_length: int, *, compiled: bool) -> Made:
        """Chooses.

        Args:
            precision: `fp32`, `bf16` or `fp16`.
            window: tokens of a passage at most.
            prefix_length: tokens before each passage's own.
            compiled: try torch's compiler as well.

        Raises:
            ConfigError: the model's numbers overflow in this precision.
            UnsupportedModelError: there is no way here; another loader may have one.
        """
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that is loaded, on its device, in fp32.

    Attributes:
        tokenizer: Its own; others may change its truncation and padding.
        own_window: How many tokens it wants to be given at most; None where it does not say.
        positions: How many tokens it has positions for; None where it has no limit.
        dim: Length of a full vector.
        prompts: What it wants before texts, by what they are.
        default_prompt_name: Which prompt stands before a text of no kind.
        make: Chooses how it is run; called once, since it may change the weights.
    """

    tokenizer: Tokenizer
    own_window: int | None
    positions: int | None
    dim: int
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    make: Make


def find_packed(
    make: Callable[[torch.dtype, Attention, bool], Body],
    device: torch.device,
    precision: str,
    head_size: int,
    sample: list[NDArray[np.int32]],
    expected: torch.Tensor,
    *,
    compiled: bool,
) -> tuple[Made | None, list[str]]:
    """Finds the fastest way without padding whose vectors are right.

    Args:
        make: makes a body with an attention kernel, compiled or not; may raise UnsupportedModelError.
        device: where the model is.
        precision: `fp32`, `bf16` or `fp16`.
        head_size: numbers of an attention head.
        sample: passages, and
        expected: their vectors, shape (passages, dim).
        compiled: try torch's compiler first.

    Returns:
        The way, None if there is none, and why faster ones were refused.
    """
    refused: list[str] = []
    for compiling in (True, False) if compiled else (False,):
        try:
            attention = _kernel(device, precision, head_size)
            body = make(DTYPES[precision], attention, compiling)
            _prove(body, sample, expected)
            return Made(body, "packed", attention.__name__, compiling, "; ".join(refused)), refused
        except UnsupportedModelError as error:
            refused.append(f"packed: {error}")
            break
        except Exception as error:  # whatever a kernel or a compiler says on someone else's machine
            refused.append(f"{'compile' if compiling else 'packed'}: {first_line(error)}")
    return None, refused


def sample_passages(vocabulary: int, window: int) -> list[NDArray[np.int32]]:
    """Passages of different and of equal lengths, of ids spread over the vocabulary."""
    drawn = np.random.default_rng(0)
    return [drawn.integers(0, vocabulary, min(each, window), dtype=np.int32) for each in SAMPLE_LENGTHS]


def _kernel(device: torch.device, precision: str, head_size: int) -> Attention:
    if device.type == "cpu":
        return grouped
    if device.type != "cuda":
        raise UnsupportedModelError(f"there is no attention without padding for {device.type}")
    if precision == "fp32":
        raise UnsupportedModelError("attention without padding wants fp16 or bf16")
    if torch.cuda.get_device_capability(device) < AMPERE:
        raise UnsupportedModelError(f"{torch.cuda.get_device_name(device)} is older than FlashAttention")
    if head_size % HEAD_STEP or head_size > WIDEST_HEAD:
        raise UnsupportedModelError(f"FlashAttention has no heads of {head_size} numbers")
    return varlen


def _prove(body: Body, sample: list[NDArray[np.int32]], expected: torch.Tensor) -> None:
    with torch.inference_mode():
        cosines = functional.cosine_similarity(body(sample).float(), expected.float())
    if not bool(cosines.min() >= LEAST_COSINE):
        raise RuntimeError(f"its vectors are wrong (cosine {float(cosines.min()):.4f})")
