"""What an estimate needs to know of a model, from its own files and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstream.costs import ModelShape
from embedstream.errors import ConfigError
from embedstream.settings import EncoderSettings

if TYPE_CHECKING:
    from consumer.split import Splitter

__all__ = ["open_model", "shape_of"]

# The published shapes of the two models that people begin with: family, layers, width, width of the
# feed-forward part, window, length of a vector. Both have the vocabulary of the bundled model.
_KNOWN = {
    "bge-large-en-v1.5": ("bert", 24, 1024, 4096, 512, 1024),
    "all-MiniLM-L12-v2": ("bert", 12, 384, 1536, 128, 384),
}
_NO_LIMIT = 1_000_000


def open_model(settings: EncoderSettings) -> tuple[Splitter, ModelShape, str]:
    """Find a model's tokenizer and shape.

    Returns:
        What splits texts into its passages, its shape, and what both come from, in a few words.

    Raises:
        ConfigError: The model is not at hand and not known, or the tokenizers library is missing.
    """
    try:
        from tokenizers import Tokenizer

        from consumer.model_files import BUNDLED_MODEL, find_model
        from consumer.split import Splitter
    except ImportError:
        told = "counting tokens needs the library tokenizers"
        raise ConfigError(told, "pip install 'embedstream[consumer]', or tokenizers alone") from None
    known = _KNOWN.get(settings.model.rpartition("/")[2])
    try:
        folder = find_model(settings.model)
        family, layers, hidden, intermediate, window, dim = _shape(folder)
        basis = f"the tokenizer of {settings.model}"
    except ConfigError:
        if known is None:
            raise
        folder = find_model(BUNDLED_MODEL)
        family, layers, hidden, intermediate, window, dim = known
        basis = (
            f"the tokenizer of {BUNDLED_MODEL}, whose vocabulary {settings.model} has; its own is not at hand"
        )
    window = min(settings.max_tokens or window, window) if window else settings.max_tokens or 0
    if not window:
        raise ConfigError(f"encoder.model = {settings.model} states no window", "set encoder.max_tokens")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"encoder.model = {settings.model} has no tokenizer.json", "name another model")
    dim = min(settings.truncate_dim or dim, dim)
    shape = ModelShape(settings.model, family, layers, hidden, intermediate, window, dim)
    return Splitter(Tokenizer.from_file(str(file)), window, prompt=_prompt(folder)), shape, basis


def shape_of(settings: EncoderSettings) -> ModelShape:
    """Find a model's shape alone.

    Raises:
        ConfigError: The model is not at hand, or is of no BERT-like architecture.
    """
    from consumer.model_files import find_model

    family, layers, hidden, intermediate, window, dim = _shape(find_model(settings.model))
    return ModelShape(settings.model, family, layers, hidden, intermediate, window, dim)


def _shape(folder: Path) -> tuple[str, int, int, int, int, int]:
    config = _read(folder / "config.json")
    try:
        family = str(config["model_type"])
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
        intermediate = int(config["intermediate_size"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{folder}/config.json is of no BERT-like model", "name another model") from None
    limits = [
        _read(folder / "sentence_bert_config.json").get("max_seq_length"),
        _read(folder / "tokenizer_config.json").get("model_max_length"),
        config.get("max_position_embeddings"),
    ]
    own = next((each for each in limits if isinstance(each, int) and each < _NO_LIMIT), 0)
    dim = _read(folder / "1_Pooling" / "config.json").get("word_embedding_dimension", hidden)
    return family, layers, hidden, intermediate, own, int(dim)


def _prompt(folder: Path) -> str:
    prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    return next(filter(None, map(prompts.get, ("document", "passage", "corpus"))), "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
