"""The hot loop: token ids in, unit vectors out, with the weights of a sentence-transformers model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.nn import functional

from consumer.bert import PackedBert
from consumer.encoder import ModelInfo, OutOfMemory, Pending
from consumer.packed import Packed
from consumer.split import Splitter
from embedstream.errors import TryAgainError

__all__ = ["Body", "PackedBody", "PaddedBody", "TransformerEncoder"]

Ids: TypeAlias = NDArray[np.int32]
Body: TypeAlias = Callable[[Sequence[Ids]], torch.Tensor]

# One being computed, one ready behind it, one whose vectors are on their way back.
GPU_IN_FLIGHT = 3
# What the GPU, its libraries (cuBLAS wants memory of its own) and the CPU's allocator say.
TOO_LITTLE_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory")


class PackedBody:
    """From token ids to sentence embeddings without padding, for the models that `PackedBert` knows."""

    def __init__(self, bert: PackedBert, model: SentenceTransformer, prefix_length: int) -> None:
        """Takes what follows the transformer from `model`, whose first such module must pool."""
        self._bert = bert
        _, pooling, *self._after = model
        assert isinstance(pooling, Pooling)
        self._pooling = pooling
        self._prefix_length = prefix_length

    def __call__(self, batch: Sequence[Ids]) -> torch.Tensor:
        """Shape (passages, dim), float32, on the device."""
        packed = self._bert.packed(batch)
        features = {"sentence_embedding": self._pooled(self._bert(packed), packed)}
        for module in self._after:
            features = module(features)
        return features["sentence_embedding"]

    def _pooled(self, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
        mode = self._pooling.pooling_mode
        if self._pooling.include_prompt or self._prefix_length <= 1:
            if mode == "cls":
                return hidden.index_select(0, packed.bounds[:-1]).float()
            if mode == "mean" and hidden.device.type == "cpu":
                # The module adds up row by row, which takes a CPU a tenth of the whole pass.
                return torch.segment_reduce(hidden.float(), "mean", offsets=packed.bounds.long())
        features: dict[str, Any] = {
            "token_embeddings": hidden.float()[None],
            "cu_seq_lens_q": packed.bounds.long(),
            "seq_idx": packed.passage[None],
            "prompt_length": self._prefix_length,
        }
        return cast(torch.Tensor, self._pooling(features)["sentence_embedding"])


class PaddedBody:
    """The same through the model's own modules, for any transformer; it changes the model's precision.

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

    def __call__(self, batch: Sequence[Ids]) -> torch.Tensor:
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

    def _padded(self, batch: Sequence[Ids]) -> dict[str, Any]:
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


class TransformerEncoder:
    """An encoder over a body, on the device where that is."""

    def __init__(self, body: Body, info: ModelInfo, splitter: Splitter, token_budget: int) -> None:
        self.info = info
        self.splitter = splitter
        self.token_budget = token_budget
        self._body = body
        self._device = torch.device(info.device)
        cuda = self._device.type == "cuda"
        self.in_flight = GPU_IN_FLIGHT if cuda else 1
        self._side = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]

    def encode(self, batch: Sequence[Ids]) -> NDArray[np.float32]:
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
        return self.submit(batch).result()

    def submit(self, batch: Sequence[Ids]) -> Pending:
        """As `encode`, but on a GPU it comes back while the device still works."""
        if not batch:
            return _Done(np.empty((0, self.info.dim), dtype=np.float32))
        try:
            with torch.inference_mode():
                vectors = self._vectors(batch)
                if self._side is not None:
                    return _OnItsWay.back(vectors, self._side)
                return _Done(vectors.cpu().numpy())
        except (RuntimeError, MemoryError) as error:
            failure = _translated(error)
            if failure is None:
                raise
        # Outside the handler: the error's traceback would keep the batch's tensors alive.
        raise failure

    def _vectors(self, batch: Sequence[Ids]) -> torch.Tensor:
        # A no-op for full vectors that the model has normalised.
        return functional.normalize(self._body(batch)[:, : self.info.dim].float(), dim=1)


@dataclass(frozen=True, slots=True)
class _Done:
    vectors: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        return self.vectors


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    """Vectors that are copied from a GPU, beside what it computes next.

    `device` must live until the copy is done: its memory would be given to the next batch.
    """

    device: torch.Tensor
    host: torch.Tensor
    copied: torch.cuda.Event

    @classmethod
    def back(cls, vectors: torch.Tensor, side: torch.cuda.Stream) -> _OnItsWay:
        """Begins to copy once the vectors are computed."""
        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        side.wait_stream(torch.cuda.current_stream(vectors.device))
        with torch.cuda.stream(side):
            host.copy_(vectors, non_blocking=True)
            # Blocking: the thread sleeps while it waits, and leaves its core to those that tokenise.
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record(side)
        return cls(vectors, host, copied)

    def result(self) -> NDArray[np.float32]:
        try:
            self.copied.synchronize()
        except RuntimeError as error:
            failure = _translated(error)
            if failure is None:
                raise
        else:
            # A copy, since pinned memory is scarce and vectors are kept for a while.
            vectors: NDArray[np.float32] = self.host.numpy().copy()
            return vectors
        raise failure


def _translated(error: RuntimeError | MemoryError) -> Exception | None:
    """What an error of torch means; None for one that has to do with the batch alone."""
    text = str(error)
    told = text.partition("\n")[0]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        each in text.lower() for each in TOO_LITTLE_MEMORY
    ):
        return OutOfMemory(told)
    # A failed kernel shows in whatever is called next: also in cuBLAS, which says so as a plain RuntimeError.
    if isinstance(error, torch.AcceleratorError) or "CUDA error: " in text:
        return TryAgainError(f"the GPU failed ({told})", "start the daemon again")
    return None
