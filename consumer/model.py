"""Loads a model as an encoder, and checks the settings against it.

    encoder = load_encoder(settings.encoder)
    [split] = encoder.splitter.split_many(["a text"])
    vectors = encoder.encode([passage.token_ids for passage in split.passages])

Torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from consumer.device import find_device, find_precision
from consumer.encoder import Encoder, ModelInfo
from consumer.fingerprint import earlier_fingerprints, model_fingerprint
from consumer.model_files import find_model
from consumer.split import Splitter
from embedstream.errors import ConfigError
from embedstream.settings import EncoderSettings

if TYPE_CHECKING:
    import torch

    from consumer.body import EmbeddingModel

__all__ = ["load_encoder"]

# Tokenizers that know no limit say so with a huge number.
NO_LIMIT = 1_000_000


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
    from consumer.bert import UnsupportedModelError
    from consumer.bert_files import read_bert

    device = find_device(settings.device)
    precision = find_precision(settings.precision, device)
    try:
        return _encoder(read_bert(folder, device), folder, device, precision, settings, overflow)
    except UnsupportedModelError:
        pass  # Loaded anew outside: the exception's traceback would keep these weights alive.
    from consumer.library_model import load_model

    model = load_model(settings.model, folder, device)
    return _encoder(model, folder, device, precision, settings, overflow)


def _encoder(
    model: EmbeddingModel,
    folder: Path,
    device: torch.device,
    precision: str,
    settings: EncoderSettings,
    overflow: Literal["split", "truncate"],
) -> Encoder:
    from consumer.token_budget import find_token_budget
    from consumer.transformer import TransformerEncoder

    window = _window(model, settings.max_tokens, settings.model)
    dim = _dim(model, settings.truncate_dim)
    prompt = _document_prompt(model)
    try:
        splitter = Splitter(model.tokenizer, window, overflow, prompt)
    except ValueError as error:
        raise ConfigError(f"encoder.max_tokens is too small for {settings.model}", str(error)) from None
    made = model.make(precision, window, splitter.prefix_length, compiled=settings.compile)
    info = ModelInfo(
        name=settings.model,
        fingerprint=model_fingerprint(folder, prompt=prompt, window=window, dim=dim),
        dim=dim,
        max_tokens=window,
        precision=precision,
        attention=made.attention,
        device=str(device),
        layout=made.layout,
        compiled=made.compiled,
        refused=made.refused,
        earlier=earlier_fingerprints(folder, prompt=prompt, window=window, dim=dim),
    )
    encoder = TransformerEncoder(made.body, info, splitter, settings.token_budget or 0)
    if settings.token_budget is None:
        encoder.token_budget = find_token_budget(encoder)
    return encoder


def _window(model: EmbeddingModel, asked: int | None, name: str) -> int:
    """The window in tokens: what is asked for, else the model's own."""
    limit = model.positions
    if asked is not None:
        if limit is not None and asked > limit:
            raise ConfigError(
                f"encoder.max_tokens = {asked} is beyond the {limit} positions of {name}",
                f"give at most {limit} (--max-tokens)",
            )
        return asked
    known = [tokens for tokens in (model.own_window, limit) if tokens is not None and tokens < NO_LIMIT]
    if not known:
        raise ConfigError(f"encoder.model = {name} states no window", "set encoder.max_tokens")
    return int(min(known))


def _dim(model: EmbeddingModel, asked: int | None) -> int:
    wanted = asked or model.dim
    if wanted > model.dim:
        raise ConfigError(
            f"encoder.truncate_dim = {wanted} is more than the model's {model.dim} dimensions",
            f"give at most {model.dim} (--truncate-dim)",
        )
    return wanted


def _document_prompt(model: EmbeddingModel) -> str:
    """What the model's configuration puts before documents; never what it puts before queries."""
    names = ["document", "passage", "corpus"]
    default = model.default_prompt_name
    if default is not None and "query" not in default.lower():
        names.append(default)
    return next(filter(None, map(model.prompts.get, names)), "")
