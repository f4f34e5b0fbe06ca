"""What the pipeline asks of an encoder, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from consumer.split import Splitter

__all__ = ["Encoder", "ModelInfo", "OutOfMemory", "Pending", "PipelinedEncoder"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is called, what decides its vectors, and how it is run here.

    Attributes:
        name: The name or path that the model was asked for by.
        fingerprint: Lower-case hex; the same for every daemon whose passages and vectors are comparable.
        dim: Length of a vector.
        max_tokens: Window in tokens, special tokens and document prompt included.
        precision: What the encoder computes in: `fp32`, `bf16` or `fp16`.
        attention: The attention kernel: `varlen` or `grouped` over packed passages, or that of transformers,
            for example `sdpa`.
        device: The torch device, for example `cpu` or `cuda:0`.
        layout: `packed` where no padding is computed, else `padded`: a batch counts as its passages times the
            longest of them.
        compiled: Whether torch's compiler has fused what lies between the attentions.
        refused: Which faster way was not taken, and why; empty if none.
        earlier: What the fingerprint was under each earlier version of the splitter.
    """

    name: str
    fingerprint: str
    dim: int
    max_tokens: int
    precision: str
    attention: str
    device: str
    layout: Literal["packed", "padded"] = "padded"
    compiled: bool = False
    refused: str = ""
    earlier: tuple[str, ...] = ()


class OutOfMemory(Exception):
    """The device has too little memory for this batch; a smaller one may fit."""


class Encoder(Protocol):
    """A loaded model: splits texts to its window and turns passages into unit vectors."""

    @property
    def info(self) -> ModelInfo:
        """The model and how it is run."""
        ...

    @property
    def splitter(self) -> Splitter:
        """Cuts texts into passages of this model's window."""
        ...

    @property
    def token_budget(self) -> int:
        """Most tokens of a batch, padding included where there is any, to give this device at once."""
        ...

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Encode passages of any lengths.

        Args:
            batch: Token ids of each passage, special tokens included.

        Returns:
            float32, shape (len(batch), dim): unit vectors, in the order of `batch`.

        Raises:
            OutOfMemory: The batch does not fit; a smaller one may.
        """
        ...


class Pending(Protocol):
    """A batch that a device works on."""

    def result(self) -> NDArray[np.float32]:
        """Waits for the vectors; what `Encoder.encode` says of them and of errors is true here too."""
        ...


@runtime_checkable
class PipelinedEncoder(Encoder, Protocol):
    """An encoder that takes batches before earlier ones are done, so that its device never waits.

    One thread calls all of it. A batch that fails costs the others in flight nothing.
    """

    @property
    def in_flight(self) -> int:
        """How many batches to have submitted at a time; 1 where more would gain nothing."""
        ...

    def submit(self, batch: Sequence[NDArray[np.int32]]) -> Pending:
        """Begins to encode passages, and may raise what `encode` does."""
        ...
