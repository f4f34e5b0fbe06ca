"""The measurements that need no broker: the device's peak, tokenising, and encoding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedstream.errors import TryAgainError

if TYPE_CHECKING:
    from consumer.encoder import Encoder
    from consumer.split import Split

__all__ = ["Encoding", "Tokenising", "measure_encoding", "measure_peak", "measure_tokenising"]

TEXTS_AT_ONCE = 256
PEAK_SECONDS = 1.0
# Side of the square matrices: large enough that the multipliers are busy, whatever the device.
CPU_MATRIX, GPU_MATRIX = 2048, 8192
# A window of the daemon before it knows its rate: enough batches that sorting by length pays.
BUDGETS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Tokenising:
    """What splitting texts into passages took, tokenising included."""

    tokens: int
    passages: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Encoding:
    """What encoding passages took.

    Attributes:
        lengths: Tokens of each passage, special tokens included.
        padding: Share of the computed tokens that was padding.
    """

    lengths: tuple[int, ...]
    batches: int
    padding: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens, special ones included, padding not."""
        return sum(self.lengths) / self.seconds


def measure_tokenising(encoder: Encoder, texts: Sequence[str]) -> tuple[Tokenising, list[Split]]:
    """Split all texts as the daemon does; returns the splits, in order, as well."""
    encoder.splitter.split_many(texts[:TEXTS_AT_ONCE])
    splits: list[Split] = []
    started = time.perf_counter()
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        splits += encoder.splitter.split_many(texts[first : first + TEXTS_AT_ONCE])
    seconds = time.perf_counter() - started
    passages = [passage for split in splits for passage in split.passages]
    tokens = sum(passage.token_count for passage in passages)
    return Tokenising(tokens, len(passages), sum(len(text.encode()) for text in texts), seconds), splits


def measure_encoding(encoder: Encoder, passages: Sequence[NDArray[np.int32]], seconds: float) -> Encoding:
    """Encode passages, in their order and as many at once as a window of the daemon holds.

    Args:
        encoder: The model.
        passages: int32 ids of each.
        seconds: Ends with the first window that is done after so long; the sample may be through before.

    Raises:
        TryAgainError: The encoder could not encode a passage.
    """
    from consumer.records import Failure
    from consumer.robust import encode_passages

    warm_up = [np.resize(passages[0], encoder.info.max_tokens)] * 4
    encode_passages(encoder, warm_up, stop=lambda: False)
    lengths: list[int] = []
    batches = computed = place = 0
    started = time.perf_counter()
    spent = 0.0
    while place < len(passages) and spent < seconds:
        window: list[NDArray[np.int32]] = []
        tokens = 0
        while place < len(passages) and tokens < BUDGETS_AT_ONCE * encoder.token_budget:
            window.append(passages[place])
            tokens += len(passages[place])
            place += 1
        outcomes, stats = encode_passages(encoder, window, stop=lambda: False)
        failed = next((each for each in outcomes if isinstance(each, Failure)), None)
        if failed is not None:
            raise TryAgainError(
                f"a passage of the sample can't be encoded ({failed.message})", "name another --sample"
            )
        lengths += map(len, window)
        batches += len(stats.batches)
        computed += sum(batch.padded_tokens for batch in stats.batches)
        spent = time.perf_counter() - started
    return Encoding(tuple(lengths), batches, 1 - sum(lengths) / computed, spent)


def measure_peak(device: str, precision: str) -> float:
    """The most floating-point operations a second that large products of matrices reach, in a precision.

    Args:
        device: A torch device.
        precision: `fp32`, `bf16` or `fp16`.
    """
    import torch

    on = torch.device(device)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = CPU_MATRIX if on.type == "cpu" else GPU_MATRIX

    def wait() -> None:
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    with torch.inference_mode():
        left = torch.randn(size, size, device=on).to(kind)
        right = torch.randn(size, size, device=on).to(kind)
        product = left @ right
        wait()
        best, ends = float("inf"), time.perf_counter() + PEAK_SECONDS
        while time.perf_counter() < ends:
            started = time.perf_counter()
            torch.mm(left, right, out=product)
            wait()
            best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)
