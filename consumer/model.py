"""Loads a model as an encoder, and checks the settings against it.

    encoder = load_encoder(settings.encoder)
    [split] = encoder.splitter.split_many(["a text"])
    vectors = encoder.encode([passage.token_ids for passage in split.passages])

Torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from consumer.device import find_device, find_precision
from consumer.encoder import Encoder, ModelInfo
from consumer.fingerprint import earlier_fingerprints, model_fingerprint
from consumer.model_files import find_model, first_line
from consumer.split import Splitter
from embedstream.errors import ConfigError
from embedstream.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

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
    from consumer.body import make_body
    from consumer.token_budget import find_token_budget
    from consumer.transformer import TransformerEncoder

    device = find_device(settings.device)
    precision = find_precision(settings.precision, device)
    model = _load(settings.model, folder, device)
    transformer: Any = model[0]
    window = _window(transformer, settings.max_tokens, settings.model)
    dim = _dim(model, settings.truncate_dim)
    prompt = _document_prompt(model)
    try:
        splitter = Splitter(transformer.tokenizer.backend_tokenizer, window, overflow, prompt)
    except ValueError as error:
        raise ConfigError(f"encoder.max_tokens is too small for {settings.model}", str(error)) from None
    made = make_body(model, precision, window, splitter.prefix_length, compiled=settings.compile)
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


def _load(name: str, folder: Path, device: torch.device) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except Exception as error:  # whatever a folder of someone else's holds
        raise ConfigError(
            f"encoder.model = {name} can't be loaded ({first_line(error)})",
            "fetch it anew with `embedstream model fetch`, or name another",
        ) from None
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
            raise ConfigError(
                f"encoder.max_tokens = {asked} is beyond the {limit} positions of {name}",
                f"give at most {limit} (--max-tokens)",
            )
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
        raise ConfigError(
            f"encoder.truncate_dim = {wanted} is more than the model's {full} dimensions",
            f"give at most {full} (--truncate-dim)",
        )
    return wanted


def _document_prompt(model: SentenceTransformer) -> str:
    """What the model's configuration puts before documents; never what it puts before queries."""
    names = ["document", "passage", "corpus"]
    default = model.default_prompt_name
    if default is not None and "query" not in default.lower():
        names.append(default)
    return next(filter(None, map(model.prompts.get, names)), "")
