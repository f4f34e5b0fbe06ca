"""This machine: Python, torch and its device, the model, the clock, the disk."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from embedstream import __version__
from embedstream.doctor.finding import Finding, failed, from_error, ok, skipped, warning
from embedstream.errors import EmbedstreamError
from embedstream.settings import EncoderSettings, Settings
from embedstream.state_folder import state_folder

__all__ = ["LEAST_FREE_BYTES", "look"]

# A ledger of 5 million documents takes 2 GB and a large model 1.3.
LEAST_FREE_BYTES = 2 * 10**9
# What adjtimex(2) returns of a clock that nothing keeps right.
CLOCK_ERROR = 5
# A struct timex is 208 bytes on 64-bit Linux; it is asked with mode 0, which changes nothing.
TIMEX_BYTES = 512


def look(settings: Settings) -> Iterator[Finding]:
    """Yield what this machine is like."""
    yield _python()
    yield from _encoder(settings.encoder)
    yield _clock()
    yield from _disks()


def _python() -> Finding:
    told = f"Python {platform.python_version()}, embedstream {__version__}, {platform.system()}"
    if sys.platform != "linux":
        return warning("python", told, "only Linux is tested")
    return ok("python", told)


def _encoder(encoder: EncoderSettings) -> Iterator[Finding]:
    """Torch, the device with its precision, and the model; what only produces needs none of them."""
    missing = [name for name in ("torch", "sentence_transformers") if importlib.util.find_spec(name) is None]
    if missing:
        told = f"{' and '.join(missing)} are not installed, so this machine can produce but not embed"
        yield warning("torch", told, "where it is to embed: pip install 'embedstream[consumer]'")
        yield skipped("device", "needs torch")
        yield skipped("model", "needs sentence-transformers")
        return
    import torch

    from consumer.device import NVIDIA_DRIVER, device_name, find_device, find_precision
    from consumer.model_files import find_model, is_on_hub

    yield ok("torch", f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'not at all'}")
    try:
        device = find_device(encoder.device)
        told = f"{device_name(device)}, {find_precision(encoder.precision, device)}"
    except EmbedstreamError as error:
        yield from_error("device", error)
    else:
        if device.type == "cpu" and encoder.device == "auto" and NVIDIA_DRIVER.exists():
            told += ", though there is an NVIDIA GPU that torch can't use"
            yield warning("device", told, "install a torch that is built for this driver's CUDA")
        else:
            yield ok("device", told)
    try:
        yield ok("model", f"{encoder.model} at {find_model(encoder.model, fetch=False)}")
    except EmbedstreamError as error:
        if is_on_hub(encoder.model):
            mend = f"fetch it ahead: `embedstream model fetch {encoder.model} --to FOLDER`"
            yield warning("model", f"{encoder.model} is not here, and the hub has it", mend)
        else:
            yield from_error("model", error)


def _clock() -> Finding:
    """Whether something keeps the clock right: versions of documents, deadlines and costs go by it."""
    if sys.platform != "linux":
        return skipped("clock", "only Linux tells whether it is kept right")
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if state < 0:
        return skipped("clock", "the kernel does not tell whether it is kept right")
    if state == CLOCK_ERROR:
        return warning("clock", "nothing keeps it right", "start an NTP client, such as systemd-timesyncd")
    return ok("clock", "kept right by the time service")


def _disks() -> Iterator[Finding]:
    """Where ledgers and models go."""
    try:
        state = state_folder()
    except EmbedstreamError as error:
        yield from_error("disk (state)", error)
        return
    cache = Path(os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for name, folder, variable in (("state", state, "XDG_STATE_HOME"), ("cache", cache, "HF_HOME")):
        check = f"disk ({name})"
        nearest = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
        if not os.access(nearest, os.W_OK):
            yield failed(check, f"{folder} can't be written", f"set {variable} to a folder that can")
            continue
        free = shutil.disk_usage(nearest).free
        told = f"{folder} has {free / 1e9:,.1f} GB free"
        if free < LEAST_FREE_BYTES:
            mend = f"make room, or set {variable} to a folder on another disk"
            yield warning(check, f"{told}, less than {LEAST_FREE_BYTES / 1e9:.0f}", mend)
        else:
            yield ok(check, told)
