from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from consumer import bert as bert_module
from consumer import body as module
from consumer.attention import Attention, reference, varlen
from consumer.body import Made
from consumer.packed import Packed
from embedstream.errors import ConfigError
from tests.attention import varlen_in_loops
from tests.models import save_bert, save_modernbert, save_roberta

IDS = [np.arange(1000, 1000 + length, dtype=np.int32) for length in (1, 2, 5, 5, 40, 127)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def loaded(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def made_of(model: Any, precision: str = "fp32", compiled: bool = False) -> Made:
    from consumer.library_model import make_body

    return make_body(model, precision, 128, 1, compiled=compiled)


def made(folder: Path, precision: str = "fp32", compiled: bool = False) -> Made:
    return made_of(loaded(folder), precision, compiled)


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
    model = loaded(bert)
    transformer: Any = model[0]
    for name, value in changes.items():
        setattr(transformer.model.config, name, value)
    found = made_of(model)
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
    assert found.refused.startswith("packed: its vectors are wrong (cosine ")


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


@pytest.mark.parametrize("save", [save_bert, save_roberta], ids=["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gpus_way_runs_through_torchs_own_kernel(
    tmp_path: Path, save: Any, pooling: str, dtype: torch.dtype
) -> None:
    """On the meta device, which has types and shapes but no numbers, and refuses what lies on the CPU."""
    from consumer.library_model import packed_body

    model = loaded(save(tmp_path, pooling)).to("meta")
    body = packed_body(model, dtype, varlen, 1)
    with torch.inference_mode():
        vectors = body(IDS)
    assert (vectors.shape, vectors.dtype, vectors.device.type) == ((len(IDS), 48), torch.float32, "meta")


@pytest.mark.parametrize(
    ("device", "precision", "capability", "head", "told"),
    [
        ("cuda", "fp32", (8, 9), 64, "attention without padding wants fp16 or bf16"),
        ("cuda", "fp16", (7, 5), 64, "NVIDIA T4 is older than FlashAttention"),
        ("cuda", "fp16", (8, 9), 26, "FlashAttention has no heads of 26 numbers"),
        ("cuda", "fp16", (8, 9), 264, "FlashAttention has no heads of 264 numbers"),
        ("mps", "fp16", (8, 9), 64, "there is no attention without padding for mps"),
        ("cuda", "fp16", (8, 9), 64, None),
    ],
)
def test_a_device_that_the_kernel_is_not_for_is_told(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    precision: str,
    capability: tuple[int, int],
    head: int,
    told: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA T4")
    if told is None:
        assert module._kernel(torch.device(device), precision, head) is varlen
        return
    with pytest.raises(bert_module.UnsupportedModelError, match=told):
        module._kernel(torch.device(device), precision, head)


def test_a_model_whose_numbers_are_too_large_for_fp16_is_refused(tmp_path: Path) -> None:
    """Else every passage of a job would be a dead letter."""
    model = loaded(save_modernbert(tmp_path))
    transformer: Any = model[0]
    with torch.no_grad():
        for layer in transformer.model.layers:
            layer.mlp.Wo.weight.fill_(6e4)
    assert made_of(model).layout == "padded"
    with pytest.raises(ConfigError, match=r"encoder\.precision = fp16 overflows in this model"):
        made_of(model, "fp16")


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
