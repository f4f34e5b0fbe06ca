"""The hot loop: token ids in, unit vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from consumer.bert import PackedBert
from consumer.encoder import ModelInfo, OutOfMemory, Pending
from consumer.packed import Packed
from consumer.split import Splitter
from consumer.streams import Streams
from embedstream.errors import TryAgainError

__all__ = ["Body", "PackedBody", "Pool", "TransformerEncoder", "first_tokens", "mean_of_tokens"]

Ids: TypeAlias = NDArray[np.int32]
Body: TypeAlias = Callable[[Sequence[Ids]], torch.Tensor]
Pool: TypeAlias = Callable[[PackedBert, Packed], torch.Tensor]

# One being computed, one ready behind it, one whose vectors are on their way back.
GPU_IN_FLIGHT = 3
# What the GPU, its libraries (cuBLAS wants memory of its own) and the CPU's allocator say.
TOO_LITTLE_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory")


class PackedBody:
    """From token ids to sentence embeddings without padding."""

    def __init__(self, bert: PackedBert, pool: Pool, *after: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`after` is what follows the pooling, but for a normalisation."""
        self._bert = bert
        self._pool = pool
        self._after = after

    def __call__(self, batch: Sequence[Ids]) -> torch.Tensor:
        """Shape (passages, dim), float32, on the device."""
        vectors = self._pool(self._bert, self._bert.packed(batch))
        for module in self._after:
            vectors = module(vectors)
        return vectors


def first_tokens(bert: PackedBert, packed: Packed) -> torch.Tensor:
    """Pools by each passage's first token; float32, shape (passages, hidden size)."""
    return bert(packed, rows=packed.bounds[:-1]).float()


def mean_of_tokens(bert: PackedBert, packed: Packed) -> torch.Tensor:
    """Pools by the mean of each passage's tokens; float32, shape (passages, hidden size)."""
    hidden = bert(packed).float()
    if hidden.device.type == "cpu":
        # Adding up row by row, as on a GPU, would take a CPU a tenth of the whole pass.
        return torch.segment_reduce(hidden, "mean", offsets=packed.bounds.long())
    sums = hidden.new_zeros((len(packed.lengths), hidden.shape[1])).index_add(0, packed.passage, hidden)
    return sums / packed.bounds.diff()[:, None]


class TransformerEncoder:
    """An encoder over a body, on the device where that is."""

    def __init__(self, body: Body, info: ModelInfo, splitter: Splitter, token_budget: int) -> None:
        self.info = info
        self.splitter = splitter
        self.token_budget = token_budget
        self._body = body
        self._device = torch.device(info.device)
        cuda = self._device.type == "cuda"
        self._side = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        # What is compiled, or a library's, need not bear several threads.
        is_ours = self._device.type == "cpu" and info.layout == "packed" and not info.compiled
        self._streams = Streams(torch.get_num_threads()) if is_ours else None
        self.in_flight = GPU_IN_FLIGHT if cuda else self._streams.count if self._streams else 1

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
        """As `encode`, but it comes back while a GPU, or a CPU's other threads, still work."""
        if not batch:
            return _Done(np.empty((0, self.info.dim), dtype=np.float32))
        if self._streams is not None:
            return self._streams.submit(lambda part: self._begin(part).result(), batch)
        return self._begin(batch)

    def _begin(self, batch: Sequence[Ids]) -> Pending:
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
