"""The GPU's gauges: memory, use, and the share of its peak that the model reaches. Absent without a GPU.

Each is read when it is scraped, never on the way of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from consumer.encoder import ModelInfo
from embedstream.costs import gpu_named, gpu_peaks
from embedstream.errors import EmbedstreamError
from embedstream.logs import get_logger
from embedstream.metrics import Metrics
from embedstream.model_shape import shape_of
from embedstream.settings import EncoderSettings

if TYPE_CHECKING:
    import torch

__all__ = ["flops_share", "watch_gpu"]

_log = get_logger("gpu")


def watch_gpu(
    metrics: Metrics,
    info: ModelInfo,
    settings: EncoderSettings,
    tokens_per_second: Callable[[], float | None],
    passage_tokens: Callable[[], float],
) -> None:
    """Exports the gauges if the model is on a GPU.

    Args:
        metrics: get the gauges.
        info: of the loaded model.
        settings: name the model's files.
        tokens_per_second: the encoder's rate while it works.
        passage_tokens: the mean length of recent passages.
    """
    if not info.device.startswith("cuda"):
        return
    import torch

    device = torch.device(info.device)
    metrics.enable("gpu")
    metrics.gpu_memory_used_bytes.set_function(lambda: _used(device))
    metrics.gpu_memory_reserved_bytes.set_function(lambda: torch.cuda.memory_reserved(device))
    metrics.gpu_memory_total_bytes.set(torch.cuda.get_device_properties(device).total_memory)
    metrics.gpu_utilization_ratio.set_function(lambda: _utilization(device))
    if math.isnan(_utilization(device)):
        _log.warning("gpu_use_unknown", why="NVIDIA's management library, or nvidia-ml-py for it, is missing")
    share = flops_share(torch.cuda.get_device_name(device), settings, tokens_per_second, passage_tokens)
    metrics.model_flops_utilization_ratio.set_function(share)


def flops_share(
    gpu: str,
    settings: EncoderSettings,
    tokens_per_second: Callable[[], float | None],
    passage_tokens: Callable[[], float],
) -> Callable[[], float]:
    """What tells the model's own operations over the GPU's peak; NaN where one of them is not known."""
    try:
        peak = gpu_peaks()[gpu_named(gpu, gpu_peaks())] * 1e12
        shape = shape_of(settings)
    except EmbedstreamError:
        return lambda: math.nan

    def share() -> float:
        rate, length = tokens_per_second(), passage_tokens()
        return math.nan if rate is None or not length else rate * shape.flop_per_token(length) / peak

    return share


def _used(device: torch.device) -> float:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return float(total - free)


def _utilization(device: torch.device) -> float:
    import torch

    # Needs NVIDIA's management library, which a container may lack.
    with suppress(Exception):
        return torch.cuda.utilization(device) / 100
    return math.nan
