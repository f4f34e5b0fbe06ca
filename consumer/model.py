"""Loads a model as an encoder, and checks the settings against it.

    encoder = load_encoder(settings.encoder)
    [split] = encoder.splitter.split_many(["a text"])
    vectors = encoder.encode([passage.token_ids for passage in split.passages])

Torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from consumer.encoder import Encoder, ModelInfo
from consumer.fingerprint import model_fingerprint
from consumer.model_files import find_model, first_line
from consumer.split import Splitter
from embedstream.errors import ConfigError
from embedstream.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = ["load_encoder"]

# Tokens of a batch. A CPU is fastest while a batch fits its cache: of 1024 to 8192, 2048 was the best in fp32
# and in bf16 alike. A GPU needs many tokens to be busy.
CPU_TOKEN_BUDGET = 2048
GPU_TOKEN_BUDGET = 16_384
# Tokenizers that know no limit say so with a huge number.
NO_LIMIT = 1_000_000
CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def load_encoder(settings: EncoderSettings, overflow: Literal["split", "truncate"] = "split") -> Encoder:
    """Loads the model that the settings name, onto the device and in the precision that they ask for.

    Args:
        settings: Which model, and how it runs.
        overflow: Whether a text longer than the window becomes several passages or is cut to its first.

    Raises:
        ConfigError: The model is not to be had, has no safetensors weights, or the device, precision, window
            or length of vectors that is asked for does not go with it or this machine.
    """
    folder = find_model(settings.model)  # before torch is imported: what is not there is said at once
    from consumer.transformer import TransformerEncoder

    device = _device(settings.device)
    precision = _precision(settings.precision, device)
    model = _load(settings.model, folder, device)
    transformer: Any = model[0]
    window = _window(transformer, settings.max_tokens, settings.model)
    dim = _dim(model, settings.truncate_dim)
    prompt = _document_prompt(model)
    try:
        splitter = Splitter(transformer.tokenizer.backend_tokenizer, window, overflow, prompt)
    except ValueError as error:
        raise ConfigError(f"encoder.max_tokens is too small for {settings.model}", str(error)) from None
    info = ModelInfo(
        name=settings.model,
        fingerprint=model_fingerprint(folder, prompt=prompt, window=window, dim=dim),
        dim=dim,
        max_tokens=window,
        precision=precision,
        attention=str(transformer.model.config._attn_implementation),
        device=str(device),
    )
    budget = settings.token_budget or (CPU_TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET)
    return TransformerEncoder(model, info, splitter, budget)


def _device(asked: str) -> torch.device:
    import torch

    name = asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
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


def _precision(asked: str, device: torch.device) -> str:
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


def _cpu_has_bf16() -> bool:
    if not CPU_INFO.is_file():
        return False
    with CPU_INFO.open() as lines:
        return any(BF16_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))


def _load(name: str, folder: Path, device: torch.device) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except Exception as error:  # whatever a folder of someone else's holds
        raise ConfigError(f"encoder.model = {name} can't be loaded ({first_line(error)})") from None
    if not isinstance(model[0], Transformer) or not getattr(model[0].tokenizer, "is_fast", False):
        raise ConfigError(
            f"encoder.model = {name} is no text transformer with a fast tokenizer", "name another model"
        )
    return model


def _window(transformer: Any, asked: int | None, name: str) -> int:
    """The window in tokens: what is asked for, else the model's own."""
    limit = _positions(transformer.model)
    if asked is not None:
        if limit is not None and asked > limit:
            raise ConfigError(f"encoder.max_tokens = {asked} is beyond the {limit} positions of {name}")
        return asked
    own = transformer.document_length or transformer.max_seq_length
    known = [tokens for tokens in (own, limit) if tokens is not None and tokens < NO_LIMIT]
    if not known:
        raise ConfigError(f"encoder.model = {name} states no window", "set encoder.max_tokens")
    return int(min(known))


def _positions(model: torch.nn.Module) -> int | None:
    """How many tokens the model has positions for; None where it has no limit."""
    import torch

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


def _dim(model: SentenceTransformer, asked: int | None) -> int:
    full = int(model.get_embedding_dimension() or 0)
    wanted = asked or model.truncate_dim or full
    if wanted > full:
        raise ConfigError(f"encoder.truncate_dim = {wanted} is more than the model's {full} dimensions")
    return wanted


def _document_prompt(model: SentenceTransformer) -> str:
    """What the model's configuration puts before documents; never what it puts before queries."""
    names = ["document", "passage", "corpus"]
    default = model.default_prompt_name
    if default is not None and "query" not in default.lower():
        names.append(default)
    return next(filter(None, map(model.prompts.get, names)), "")
