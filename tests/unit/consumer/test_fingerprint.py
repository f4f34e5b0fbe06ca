from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer import fingerprint
from consumer.fingerprint import earlier_fingerprints, model_fingerprint
from consumer.split import SPLITTER_VERSION
from tests.models import save_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), dense=20)


def of(folder: Path, prompt: str = "", window: int = 128, dim: int = 48) -> str:
    return model_fingerprint(folder, prompt=prompt, window=window, dim=dim)


def changed_json(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        [path] = folder.glob(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return change


def changed_byte(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        [path] = folder.glob(name)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    return change


def without_normalize(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))


def test_it_is_short_hex_and_the_same_for_a_copy_elsewhere(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    assert re.fullmatch(r"[0-9a-f]{16}", of(model))
    assert of(copy) == of(model)


@pytest.mark.parametrize(
    "change",
    [
        changed_byte("model.safetensors"),
        changed_byte("*_Dense/model.safetensors"),
        changed_byte("tokenizer.json"),
        changed_json("*_Pooling/config.json", "pooling_mode", "cls"),
        changed_json("sentence_*_config.json", "do_lower_case", True),
        without_normalize,
    ],
    ids=["weights", "dense", "tokenizer", "pooling", "lower case", "normalisation"],
)
def test_whatever_changes_a_vector_changes_it(
    model: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    change(copy)
    assert of(copy) != of(model)


def test_prompt_window_and_length_change_it(model: Path) -> None:
    others = {of(model), of(model, prompt="x"), of(model, window=127), of(model, dim=47)}
    assert len(others) == 4


def test_the_splitters_version_changes_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(model)
    monkeypatch.setattr(fingerprint, "SPLITTER_VERSION", SPLITTER_VERSION + 1)
    assert of(model) != before


def test_what_a_library_notes_about_itself_does_not_change_it(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    changed_json("config_sentence_transformers.json", "__version__", {"torch": "99"})(copy)
    changed_json("config.json", "transformers_version", "99")(copy)
    (copy / "README.md").write_text("more words")
    assert of(copy) == of(model)


def test_what_it_was_before_the_splitter_changed_is_known(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def earlier() -> tuple[str, ...]:
        return earlier_fingerprints(model, prompt="", window=128, dim=48)

    released = [of(model)]
    assert earlier() == ()
    for version in (SPLITTER_VERSION + 1, SPLITTER_VERSION + 2):
        monkeypatch.setattr(fingerprint, "SPLITTER_VERSION", version)
        assert earlier()[SPLITTER_VERSION - 1 :] == tuple(released)
        released.append(of(model))
    assert len(set(released)) == 3
