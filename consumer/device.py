"""Where a model runs, in which precision, and what that device is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from consumer.model_files import first_line
from embedstream.errors import ConfigError
from embedstream.logs import get_logger

if TYPE_CHECKING:
    import torch

__all__ = ["NVIDIA_DRIVER", "device_name", "find_device", "find_precision"]

CPU_INFO = Path("/proc/cpuinfo")
NVIDIA_DRIVER = Path("/dev/nvidiactl")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}

_log = get_logger("encoder")


def find_device(asked: str) -> torch.device:
    """The device that a setting means; `auto` is the first GPU, else the CPU with all the cores it may use.

    A GPU that is there and can't be used is told of: it costs as much as one that works.

    Raises:
        ConfigError: there is no such device here.
    """
    import torch

    name = asked
    if asked == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and NVIDIA_DRIVER.exists():
            _log.warning("gpu_not_used", reason=_why_no_gpu())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"encoder.device = {asked} can't be used ({first_line(error)})", "take auto, cpu or cuda"
        ) from None
    if device.type == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return device


def find_precision(asked: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`, as asked for or, for `auto`, the fastest that is exact enough.

    Raises:
        ConfigError: the device does not have it.
    """
    import torch

    if asked == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("encoder.precision = fp16 is not for a CPU", "take auto, bf16 or fp32")
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "bf16" and not has_bf16:
        raise ConfigError("encoder.precision = bf16 is not for this GPU", "take auto, fp16 or fp32")
    if asked not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"encoder.precision = {asked} is unknown", "take auto, fp32, bf16 or fp16")
    return asked


def _why_no_gpu() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "torch finds none"


def _cpu_has_bf16() -> bool:
    if not CPU_INFO.is_file():
        return False
    with CPU_INFO.open() as lines:
        return any(BF16_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))


def device_name(device: torch.device) -> str:
    """What the device is called, and for a CPU how many threads compute on it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def _cpu_model() -> str:
    if CPU_INFO.is_file():
        with CPU_INFO.open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return "CPU"
