"""A model as sentence-transformers loads it: any text transformer, with what follows it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.utils import logging

from consumer.attention import Attention
from consumer.bert import PackedBert, UnsupportedModelError, shape_of
from consumer.body import EmbeddingModel, Made, find_packed, sample_passages
from consumer.model_files import first_line
from consumer.packed import Packed
from consumer.transformer import Body, PackedBody, Pool, first_tokens, mean_of_tokens
from embedstream.errors import ConfigError

__all__ = ["PaddedBody", "load_model", "make_body", "packed_body"]


def load_model(name: str, folder: Path, device: torch.device) -> EmbeddingModel:
    """Loads a model in fp32.

    Raises:
        ConfigError: It can't be loaded, or is no text transformer with a fast tokenizer.
    """
    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except Exception as error:  # whatever a folder of someone else's holds
        raise ConfigError(
            f"encoder.model = {name} can't be loaded ({first_line(error)})",
            "fetch it anew with `embedstream model fetch`, or name another",
        ) from None
    first: Any = model[0]
    if not isinstance(first, Transformer) or not getattr(first.tokenizer, "is_fast", False):
        raise ConfigError(
            f"encoder.model = {name} is no text transformer with a fast tokenizer", "name another model"
        )
    return EmbeddingModel(
        tokenizer=first.tokenizer.backend_tokenizer,
        own_window=first.document_length or first.max_seq_length,
        positions=_positions(first.model),
        dim=int(model.get_embedding_dimension() or 0),
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        make=partial(make_body, model),
    )


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
    model.eval()
    transformer: Any = model[0]
    sample = sample_passages(transformer.model.get_input_embeddings().num_embeddings, window)
    with torch.inference_mode():
        expected = PaddedBody(model, "fp32", prefix_length)(sample)

    def packed(dtype: torch.dtype, attention: Attention, compiling: bool) -> PackedBody:
        return packed_body(model, dtype, attention, prefix_length, compiled=compiling)

    found, refused = find_packed(
        packed,
        torch.device(model.device),
        precision,
        _head_size(transformer.model.config),
        sample,
        expected,
        compiled=compiled,
    )
    if found is not None:
        return found
    if compiled and not any(each.startswith("compile") for each in refused):
        refused.append("compile: only for packed models")
    kernel = str(transformer.model.config._attn_implementation)
    padded = PaddedBody(model, precision, prefix_length)
    _refuse_overflow(padded, sample, precision)
    return Made(padded, "padded", kernel, False, "; ".join(refused))


def packed_body(
    model: SentenceTransformer,
    dtype: torch.dtype,
    attention: Attention,
    prefix_length: int,
    *,
    compiled: bool = False,
) -> PackedBody:
    """The model without padding, which shares weights with it.

    Raises:
        UnsupportedModelError: it is of no architecture that is known for this, or nothing pools.
    """
    if len(model) < 2 or not isinstance(model[1], Pooling):
        raise UnsupportedModelError("no pooling comes after the transformer")
    transformer: Any = model[0]
    shape = shape_of(transformer.model)
    bert = PackedBert.of(transformer.model.state_dict(), shape, dtype, attention, compiled=compiled)
    _, pooling, *after = model
    return PackedBody(bert, _pool(pooling, prefix_length), *(partial(_apply, module) for module in after))


def _pool(pooling: Pooling, prefix_length: int) -> Pool:
    if pooling.include_prompt or prefix_length <= 1:
        if pooling.pooling_mode == "cls":
            return first_tokens
        if pooling.pooling_mode == "mean":
            return mean_of_tokens

    def pool(bert: PackedBert, packed: Packed) -> torch.Tensor:
        features: dict[str, Any] = {
            "token_embeddings": bert(packed).float()[None],
            "cu_seq_lens_q": packed.bounds.long(),
            "seq_idx": packed.passage[None],
            "prompt_length": prefix_length,
        }
        return cast(torch.Tensor, pooling(features)["sentence_embedding"])

    return pool


def _apply(module: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module({"sentence_embedding": vectors})["sentence_embedding"]
    return found


class PaddedBody:
    """From token ids to sentence embeddings through the model's own modules; changes the model's precision.

    fp16 is the transformer in half precision. bf16 has too short a mantissa for that: there only the matrix
    products are bf16, while what is added up from layer to layer stays fp32: a third of the error for at most
    a few per cent of the speed. What follows the transformer is always fp32.
    """

    def __init__(self, model: SentenceTransformer, precision: str, prefix_length: int) -> None:
        self._device = torch.device(model.device)
        self._precision = precision
        self._prefix_length = prefix_length
        first, *self._after = model
        assert isinstance(first, Transformer)
        self._transformer = first
        tokenizer = first.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        self._vocabulary = first.model.get_input_embeddings().num_embeddings
        self._takes_types = "token_type_ids" in tokenizer.model_input_names
        if precision == "fp16":
            first.half()
        if precision == "bf16":
            for module in first.modules():
                if isinstance(module, torch.nn.Linear):
                    # Autocast would convert them anew for every batch.
                    module.to(torch.bfloat16)

    def __call__(self, batch: Sequence[NDArray[np.int32]]) -> torch.Tensor:
        """Shape (passages, dim), float32, on the device."""
        features = self._padded(batch)
        bf16 = self._precision == "bf16"
        cast = torch.autocast(self._device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        with cast:
            features = self._transformer(features)
        output = self._transformer.module_output_name
        features[output] = features[output].float()
        for module in self._after:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors

    def _padded(self, batch: Sequence[NDArray[np.int32]]) -> dict[str, Any]:
        """The batch as the transformer takes it: int64 tensors of shape (passages, longest)."""
        shape = len(batch), max(len(ids) for ids in batch)
        host = torch.zeros((2, *shape), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        input_ids, mask = host.numpy()
        input_ids[:] = self._pad_id
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        if input_ids.max() >= self._vocabulary:  # a GPU would not survive it
            raise IndexError(f"token id {input_ids.max()} is beyond the model's {self._vocabulary}")
        moved = host.to(self._device, non_blocking=True)
        features = {"input_ids": moved[0], "attention_mask": moved[1]}
        if self._takes_types:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return {**features, "prompt_length": self._prefix_length}


def _positions(model: torch.nn.Module) -> int | None:
    """How many tokens the model has positions for; None where it has no limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    for module in model.modules():
        # The RoBERTa family counts from the padding's index on.
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(
            getattr(module, "position_embeddings", None), torch.nn.Embedding
        ):
            return positions - padding - 1
    return positions


def _head_size(config: Any) -> int:
    return int(getattr(config, "hidden_size", 0) // getattr(config, "num_attention_heads", 1))


def _refuse_overflow(body: Body, sample: list[NDArray[np.int32]], precision: str) -> None:
    """Some models' activations are too large for fp16: every passage would be a dead letter."""
    with torch.inference_mode():
        finite = bool(torch.isfinite(body(sample)).all())
    if not finite:
        raise ConfigError(
            f"encoder.precision = {precision} overflows in this model", "take bf16 or fp32 (--precision)"
        )
