"""Chooses how a model is run: the fastest way that is known for it and proves right, else the plain one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.nn import functional

from consumer.attention import Attention, grouped, varlen
from consumer.bert import PackedBert, UnsupportedModelError
from consumer.model_files import first_line
from consumer.transformer import Body, PackedBody, PaddedBody
from embedstream.errors import ConfigError

__all__ = ["Made", "make_body"]

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


def make_body(
    model: SentenceTransformer, precision: str, window: int, prefix_length: int, *, compiled: bool
) -> Made:
    """Packed where it can be, which a sample shows against the model's own modules; else padded.

    Args:
        model: on its device, in fp32; it is changed.
        precision: `fp32`, `bf16` or `fp16`.
        window: tokens of a passage at most.
        prefix_length: tokens before each passage's own.
        compiled: try torch's compiler as well.

    Raises:
        ConfigError: the model's numbers overflow in this precision.
    """
    refused: list[str] = []
    model.eval()
    sample = _sample(model, window)
    with torch.inference_mode():
        expected = PaddedBody(model, "fp32", prefix_length)(sample)
    for compiling in (True, False) if compiled else (False,):
        try:
            attention = _kernel(torch.device(model.device), precision, _head_size(model))
            body = _packed(model, precision, prefix_length, attention, compiled=compiling)
            _prove(body, sample, expected)
            return Made(body, "packed", attention.__name__, compiling, "; ".join(refused))
        except UnsupportedModelError as error:
            refused.append(f"packed: {error}")
            break
        except Exception as error:  # whatever a kernel or a compiler says on someone else's machine
            refused.append(f"{'compile' if compiling else 'packed'}: {first_line(error)}")
    if compiled and not any(each.startswith("compile") for each in refused):
        refused.append("compile: only for packed models")
    transformer: Any = model[0]
    kernel = str(transformer.model.config._attn_implementation)
    padded = PaddedBody(model, precision, prefix_length)
    _refuse_overflow(padded, sample, precision)
    return Made(padded, "padded", kernel, False, "; ".join(refused))


def _packed(
    model: SentenceTransformer, precision: str, prefix_length: int, attention: Attention, *, compiled: bool
) -> PackedBody:
    if len(model) < 2 or not isinstance(model[1], Pooling):
        raise UnsupportedModelError("no pooling comes after the transformer")
    transformer: Any = model[0]
    bert = PackedBert.of(transformer.model, DTYPES[precision], attention, compiled=compiled)
    return PackedBody(bert, model, prefix_length)


def _head_size(model: SentenceTransformer) -> int:
    transformer: Any = model[0]
    config = transformer.model.config
    return int(getattr(config, "hidden_size", 0) // getattr(config, "num_attention_heads", 1))


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


def _sample(model: SentenceTransformer, window: int) -> list[NDArray[np.int32]]:
    """Passages of different and of equal lengths, of ids spread over the vocabulary."""
    transformer: Any = model[0]
    vocabulary = transformer.model.get_input_embeddings().num_embeddings
    drawn = np.random.default_rng(0)
    return [drawn.integers(0, vocabulary, min(each, window), dtype=np.int32) for each in SAMPLE_LENGTHS]


def _prove(body: Body, sample: list[NDArray[np.int32]], expected: torch.Tensor) -> None:
    with torch.inference_mode():
        cosines = functional.cosine_similarity(body(sample).float(), expected.float())
    if not bool(cosines.min() >= LEAST_COSINE):
        raise RuntimeError(f"its vectors are not those of transformers (cosine {float(cosines.min()):.4f})")


def _refuse_overflow(body: Body, sample: list[NDArray[np.int32]], precision: str) -> None:
    """Some models' activations are too large for fp16: every passage would be a dead letter."""
    with torch.inference_mode():
        finite = bool(torch.isfinite(body(sample)).all())
    if not finite:
        raise ConfigError(
            f"encoder.precision = {precision} overflows in this model", "take bf16 or fp32 (--precision)"
        )
