"""The hot loop: token ids in, unit vectors out, through a sentence-transformers model's own modules."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch.nn import functional

from consumer.encoder import ModelInfo, OutOfMemory
from consumer.split import Splitter
from embedstream.errors import TryAgainError

__all__ = ["TransformerEncoder"]


class TransformerEncoder:
    """An encoder over a loaded model, which it changes to the precision it is to run in.

    fp16 is the transformer in half precision. bf16 has too short a mantissa for that: there only the matrix
    products are bf16, while what is added up from layer to layer stays fp32: a third of the error for at most
    a few per cent of the speed. What follows the transformer is always fp32.
    """

    def __init__(
        self, model: SentenceTransformer, info: ModelInfo, splitter: Splitter, token_budget: int
    ) -> None:
        self.info = info
        self.splitter = splitter
        self.token_budget = token_budget
        self._device = torch.device(info.device)
        first, *self._after = model.eval()
        assert isinstance(first, Transformer)
        self._transformer = first
        tokenizer = first.tokenizer
        self._pad_id = tokenizer.pad_token_id or 0
        self._takes_types = "token_type_ids" in tokenizer.model_input_names
        if info.precision == "fp16":
            first.half()
        if info.precision == "bf16":
            for module in first.modules():
                if isinstance(module, torch.nn.Linear):
                    # Autocast would convert them anew for every batch.
                    module.to(torch.bfloat16)

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Encodes passages of any lengths; sorted by length, the least is wasted on padding.

        Args:
            batch: Token ids of each passage, special tokens included.

        Returns:
            float32, shape (len(batch), dim): unit vectors, in the order of `batch`. A model that yields a
            zero vector or none of numbers has it returned as it is.

        Raises:
            OutOfMemory: The batch does not fit; a smaller one may.
            TryAgainError: The GPU is in a state that only a new process gets out of.
        """
        if not batch:
            return np.empty((0, self.info.dim), dtype=np.float32)
        try:
            with torch.inference_mode():
                return self._vectors(self._padded(batch)).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            failure = _translated(error)
            if failure is None:
                raise
        # Outside the handler: the error's traceback would keep the batch's tensors alive.
        raise failure

    def _padded(self, batch: Sequence[NDArray[np.int32]]) -> dict[str, Any]:
        """The batch as the transformer takes it: int64 tensors of shape (passages, longest)."""
        shape = len(batch), max(len(ids) for ids in batch)
        input_ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
        features = {name: tensor.to(self._device) for name, tensor in features.items()}
        if self._takes_types:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return {**features, "prompt_length": self.splitter.prefix_length}

    def _vectors(self, features: dict[str, Any]) -> torch.Tensor:
        bf16 = self.info.precision == "bf16"
        cast = torch.autocast(self._device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        with cast:
            features = self._transformer(features)
        output = self._transformer.module_output_name
        features[output] = features[output].float()
        for module in self._after:
            features = module(features)
        # A no-op for full vectors that the model has normalised.
        return functional.normalize(features["sentence_embedding"][:, : self.info.dim], dim=1)


def _translated(error: RuntimeError | MemoryError) -> Exception | None:
    """What an error of torch means; None for one that has to do with the batch alone."""
    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text.lower():
        return OutOfMemory(text.partition("\n")[0])
    if "can't allocate memory" in text:  # the CPU's allocator
        return OutOfMemory(text.partition("\n")[0])
    if isinstance(error, torch.AcceleratorError):
        return TryAgainError(f"the GPU failed ({text.partition(chr(10))[0]})", "start the daemon again")
    return None
