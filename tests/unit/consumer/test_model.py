from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from consumer import device as device_module
from consumer.encoder import Encoder
from consumer.model import load_encoder
from consumer.token_budget import CPU_BUDGETS
from embedstream.errors import ConfigError
from embedstream.settings import EncoderSettings
from tests.models import save_bert

NO_BF16 = "processor : 0\nflags : fpu avx2 avx512f\n"
HAS_BF16 = "processor : 0\nflags : fpu avx2 avx512f avx512_bf16\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def loaded(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(EncoderSettings(model=str(folder), **({"device": "cpu"} | settings)))


def test_an_encoder_tells_what_it_is(folder: Path) -> None:
    info = loaded(folder, precision="fp32").info
    assert info.name == str(folder)
    assert (info.dim, info.max_tokens, info.precision, info.device) == (48, 160, "fp32", "cpu")
    assert len(info.fingerprint) == 16


def test_the_precision_is_not_in_the_fingerprint_but_the_window_is(folder: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        return loaded(folder, **settings).info.fingerprint

    plain = fingerprint(precision="fp32")
    assert plain == fingerprint(precision="bf16", token_budget=99)
    assert plain == fingerprint(max_tokens=160, truncate_dim=48)
    assert len({plain, fingerprint(max_tokens=100), fingerprint(truncate_dim=16)}) == 3


@pytest.mark.parametrize(("asked", "window"), [(None, 100), (40, 40), (160, 160)])
def test_the_window_is_the_models_own_unless_another_is_asked_for(
    folder: Path, tmp_path: Path, asked: int | None, window: int
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 100}))
    encoder = loaded(copy, max_tokens=asked)
    assert encoder.info.max_tokens == window
    [split] = encoder.splitter.split_many(["dog " * 500])
    assert len(split.passages[0].token_ids) == window


def test_a_model_with_positions_beyond_its_window_says_which_it_is(tmp_path: Path) -> None:
    """As all-MiniLM-L12-v2: 512 positions, and a window of 128 in a file of sentence-transformers."""
    folder = save_bert(tmp_path, positions=512)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    assert loaded(folder).info.max_tokens == 128
    assert loaded(folder, max_tokens=512).info.max_tokens == 512
    with pytest.raises(ConfigError, match=r"encoder\.max_tokens = 513 is beyond the 512 positions"):
        loaded(folder, max_tokens=513)


def test_a_model_without_a_tokenizer_is_one_line(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="has no tokenizer") as raised:
        loaded(copy)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_tokens": 161}, "encoder.max_tokens = 161 is beyond the 160 positions"),
        ({"truncate_dim": 49}, "encoder.truncate_dim = 49 is more than the model's 48"),
        ({"precision": "fp16"}, "encoder.precision = fp16"),
        ({"device": "abacus"}, "encoder.device = abacus"),
        ({"device": "cuda:99"}, "encoder.device = cuda:99"),
    ],
)
def test_a_setting_that_does_not_go_with_the_model_or_machine_is_told(
    folder: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        loaded(folder, **settings)
    assert "\n" not in str(raised.value)


def test_a_prompt_that_fills_the_window_is_told(tmp_path: Path) -> None:
    long = save_bert(tmp_path, prompts={"document": "word " * 20})
    with pytest.raises(ConfigError, match=r"encoder\.max_tokens is too small"):
        loaded(long, max_tokens=16)


def test_a_folder_that_can_not_be_loaded_is_one_line(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="can't be loaded") as raised:
        loaded(copy)
    assert "\n" not in str(raised.value)


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    mark = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="can't be loaded"):
        loaded(copy)
    assert not mark.exists()


@pytest.mark.parametrize(("flags", "precision"), [(NO_BF16, "fp32"), (HAS_BF16, "bf16")])
def test_a_cpu_runs_bf16_where_it_has_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, precision: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags)
    monkeypatch.setattr(device_module, "CPU_INFO", cpuinfo)
    assert loaded(folder).info.precision == precision


def test_a_gpu_that_can_not_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rented GPU whose driver and torch don't go together would cost money for a CPU's work."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cuda, "init", Mock(side_effect=RuntimeError("The NVIDIA driver is too old\nfor"))
    )
    monkeypatch.setattr(device_module, "NVIDIA_DRIVER", tmp_path / "absent")
    assert device_module.find_device("auto").type == "cpu"
    assert "gpu_not_used" not in "".join(capsys.readouterr())
    monkeypatch.setattr(device_module, "NVIDIA_DRIVER", tmp_path)
    assert device_module.find_device("auto").type == "cpu"
    told = "".join(capsys.readouterr())
    assert "gpu_not_used" in told
    assert "The NVIDIA driver is too old" in told


@pytest.mark.parametrize(
    ("prompts", "default", "prefix"),
    [
        ({}, None, 1),
        ({"document": "doc: "}, None, 3),
        ({"query": "query: ", "passage": "a passage: "}, None, 4),
        ({"query": "query: "}, "query", 1),
        ({"clustering": "cluster: "}, "clustering", 3),
    ],
)
def test_documents_get_the_prompt_for_documents_and_never_that_for_queries(
    tmp_path: Path, prompts: dict[str, str], default: str | None, prefix: int
) -> None:
    saved = save_bert(tmp_path, prompts=prompts, default_prompt_name=default)
    assert loaded(saved).splitter.prefix_length == prefix


def test_the_budget_asked_for_is_taken(folder: Path) -> None:
    assert loaded(folder, token_budget=99).token_budget == 99
    assert loaded(folder).token_budget in CPU_BUDGETS


@pytest.mark.gpu
def test_a_gpu_runs_fp16_without_padding(folder: Path) -> None:
    info = loaded(folder, device="auto").info
    assert (info.precision, info.device, info.layout, info.attention) == ("fp16", "cuda", "packed", "varlen")
    assert info.refused == ""


def test_importing_does_not_import_torch() -> None:
    command = "import sys, consumer.model, consumer.robust; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
