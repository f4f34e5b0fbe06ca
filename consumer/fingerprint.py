"""The model fingerprint: equal where passages and vectors are comparable, whatever the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from consumer.split import SPLITTER_VERSION

__all__ = ["TOKENIZER_FILES", "earlier_fingerprints", "model_fingerprint", "read_modules"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""What a tokenizer may be read from; each model has some of these."""


def model_fingerprint(
    folder: Path, *, prompt: str, window: int, dim: int, splitter: int | None = None
) -> str:
    """The fingerprint of a sentence-transformers model as it is used here.

    It is made of files, not of loaded tensors, so that neither precision nor a library's version is in it:
    the weights, the tokenizer, the modules after the transformer with their settings (pooling, dense layers,
    normalisation), and of what is set here: prompt, window, length of the (always normalised) vectors and
    the splitter's version.

    Args:
        folder: Of the model, with its `modules.json`.
        prompt: What stands before every document; empty for none.
        window: Tokens of a passage at most.
        dim: Length of a vector.
        splitter: Version of the splitter; None for the one that there is now.

    Returns:
        16 lower-case hexadecimal digits.
    """
    modules = read_modules(folder)
    transformer = modules[0][1]
    parts = {
        "weights": [
            [str(path.relative_to(folder)), _sha256(path)]
            for _, where in modules
            for path in sorted(where.glob("*.safetensors"))
        ],
        "tokenizer": [
            [name, _sha256(transformer / name)] for name in TOKENIZER_FILES if (transformer / name).is_file()
        ],
        "lower_case": any(
            _read_json(path).get("do_lower_case", False)
            for path in transformer.glob("sentence_*_config.json")
        ),
        "modules": [[kind, _read_json(where / "config.json")] for kind, where in modules[1:]],
        "prompt": prompt,
        "window": window,
        "dim": dim,
        "splitter": splitter or SPLITTER_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def earlier_fingerprints(folder: Path, *, prompt: str, window: int, dim: int) -> tuple[str, ...]:
    """What the same model's fingerprint was under each earlier version of the splitter, the first one first.

    So that a daemon can say what has changed when a group was begun before an upgrade.
    """
    return tuple(
        model_fingerprint(folder, prompt=prompt, window=window, dim=dim, splitter=version)
        for version in range(1, SPLITTER_VERSION)
    )


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """The modules of a sentence-transformers model in order: class name and folder, which may not exist.

    Raises:
        FileNotFoundError: There is no `modules.json`.
    """
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    return [(module["type"].rpartition(".")[2], folder / module["path"]) for module in modules]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
