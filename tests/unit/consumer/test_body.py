from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from consumer import bert as bert_module
from consumer import body as module
from consumer.attention import Attention, reference, varlen
from consumer.body import Made, make_body
from consumer.packed import Packed
from tests.attention import varlen_in_loops
from tests.models import save_bert, save_modernbert, save_roberta

IDS = [np.arange(1000, 1000 + length, dtype=np.int32) for length in (1, 2, 5, 5, 40, 127)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def made(folder: Path, precision: str = "fp32", compiled: bool = False) -> Made:
    model = SentenceTransformer(str(folder), device="cpu")
    return make_body(model, precision, 128, 1, compiled=compiled)


def use(monkeypatch: pytest.MonkeyPatch, attention: Attention) -> None:
    monkeypatch.setattr(module, "_kernel", lambda *_: attention)


def lowest_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double()).min())


def test_a_bert_is_run_without_padding(bert: Path) -> None:
    found = made(bert)
    assert (found.layout, found.attention, found.compiled, found.refused) == ("packed", "grouped", False, "")


def test_another_architecture_is_run_padded_and_says_so(tmp_path: Path) -> None:
    found = made(save_modernbert(tmp_path))
    assert found.layout == "padded"
    assert found.refused == "packed: ModernBertModel is not of the BERT family"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "relu"}, "its activation is relu, not gelu"),
        ({"is_decoder": True}, "it is a decoder"),
    ],
)
def test_a_variant_of_bert_is_run_padded(bert: Path, changes: dict[str, Any], told: str) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    transformer: Any = model[0]
    for name, value in changes.items():
        setattr(transformer.model.config, name, value)
    found = make_body(model, "fp32", 128, 1, compiled=False)
    assert (found.layout, found.refused) == ("padded", f"packed: {told}")


def test_attention_that_leaks_between_passages_is_found_out(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(qkv: torch.Tensor, packed: Packed) -> torch.Tensor:
        # All passages as one.
        one = Packed(packed.ids, packed.positions, packed.bounds, packed.passage, (len(packed.ids),))
        return reference(qkv, one)

    use(monkeypatch, leaking)
    found = made(bert)
    assert found.layout == "padded"
    assert found.refused.startswith("packed: its vectors are not those of transformers (cosine ")


def test_a_kernel_that_fails_is_told(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(qkv: torch.Tensor, packed: Packed) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")

    use(monkeypatch, failing)
    assert made(bert).refused == "packed: no kernel image is available"


@pytest.mark.parametrize("save", [save_bert, save_roberta], ids=["bert", "roberta"])
@pytest.mark.parametrize(("precision", "lowest"), [("fp16", 0.9999), ("bf16", 0.9998)])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_gpus_way_gives_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any, precision: str, lowest: float, pooling: str
) -> None:
    """All of it but the attention kernel, which is run in loops, and the copies beside the device's work."""
    folder = save(tmp_path, pooling)
    expected = made(folder).body(IDS)
    use(monkeypatch, varlen)
    monkeypatch.setattr(bert_module, "_has_onednn", lambda: False)
    with varlen_in_loops(), torch.inference_mode():
        found = made(folder, precision)
        assert (found.attention, found.refused) == ("varlen", "")
        assert lowest_cosine(found.body(IDS), expected) >= lowest


@pytest.mark.slow
def test_compiled_code_gives_the_same_vectors(bert: Path) -> None:
    plain = made(bert)
    compiled = made(bert, compiled=True)
    assert (compiled.layout, compiled.compiled, compiled.refused) == ("packed", True, "")
    with torch.inference_mode():
        for batch in (IDS, IDS[:2], IDS[3:]):
            assert lowest_cosine(compiled.body(batch), plain.body(batch)) > 0.999999


def test_a_compiler_that_fails_is_told_and_done_without(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", failing)
    found = made(bert, compiled=True)
    assert (found.layout, found.compiled) == ("packed", False)
    assert found.refused == "compile: no C++ compiler was found"
