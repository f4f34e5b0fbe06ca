"""Reads a BERT embedding model from its files: a tokenizer, weights, and what its configuration says.

    model = read_bert(folder, torch.device("cpu"))
    made = model.make("fp32", window=512, prefix_length=1, compiled=False)

Importing sentence-transformers takes longer than all else that a daemon does before its first vector. Most
models that one takes for embeddings need none of it: a plain BERT, pooled by its first token or the mean of
all. What is in any way different is refused here, and loaded by that library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Sequence

from consumer.attention import Attention, reference
from consumer.bert import BertShape, PackedBert, UnsupportedModelError, weight_names
from consumer.body import EmbeddingModel, Made, find_packed, sample_passages
from consumer.transformer import PackedBody, Pool, first_tokens, mean_of_tokens

__all__ = ["read_bert"]

SENTENCE_CONFIG = "sentence_bert_config.json"
POOLS = {"cls": first_tokens, "mean": mean_of_tokens}
LEGACY_POOLS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
# What the file of the weights may hold beside what is used: the pooler of sentence pairs, numbered positions.
UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What each file may say without making the model another one; None stands for what is not said.
TRANSFORMER: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": (None, False, True),
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "modality_config": (None, {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
}
CONFIG: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "auto_map": (None,),
    "quantization_config": (None,),
}
TOKENIZER: Mapping[str, tuple[Any, ...]] = {
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast"),
    "auto_map": (None,),
    "additional_special_tokens": (None, []),
    "extra_special_tokens": (None, [], {}),
    **{f"{each[1:-1].lower()}_token": (None, each) for each in SPECIAL_TOKENS},
}
NO_LIMIT = 1 << 60
WORD_PIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}


def read_bert(folder: Path, device: torch.device) -> EmbeddingModel:
    """Reads a model's files, and its weights onto a device, in fp32.

    Raises:
        UnsupportedModelError: It is not, in each detail, a model that is known here, or it can't be read.
    """
    try:
        return _read(folder, device)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a folder of someone else's holds: the library says what is wrong
        raise UnsupportedModelError(f"its files can't be read ({type(error).__name__})") from error


def _read(folder: Path, device: torch.device) -> EmbeddingModel:
    transformer, pool = _modules(folder)
    config = _json(transformer / "config.json")
    _allow("config.json", config, CONFIG)
    settings = _json(transformer / SENTENCE_CONFIG)
    if {*settings} - {*TRANSFORMER, "max_seq_length"}:
        raise UnsupportedModelError(f"{SENTENCE_CONFIG} says what is not known here")
    _allow(SENTENCE_CONFIG, settings, TRANSFORMER)
    if {each.name for each in transformer.glob("sentence_*_config.json")} - {SENTENCE_CONFIG}:
        raise UnsupportedModelError("it was saved as another transformer")
    if (transformer / "adapter_config.json").exists():
        raise UnsupportedModelError("its weights are those of an adapter")
    shape = BertShape(config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"])
    weights = _weights(transformer, shape, device)
    positions, hidden_size = weights["embeddings.position_embeddings.weight"].shape
    tokenizer, model_max_length = _tokenizer(transformer)
    if settings.get("do_lower_case"):  # as sentence-transformers does, whatever the tokenizer's own does too
        tokenizer.normalizer = Sequence([Lowercase(), tokenizer.normalizer])
    prompting = _json(folder / "config_sentence_transformers.json")
    return EmbeddingModel(
        tokenizer=tokenizer,
        own_window=settings.get("max_seq_length") or min(model_max_length, positions),
        positions=positions,
        dim=hidden_size,
        prompts=prompting.get("prompts") or {},
        default_prompt_name=prompting.get("default_prompt_name"),
        make=partial(_make, weights, shape, pool),
    )


def _modules(folder: Path) -> tuple[Path, Pool]:
    """Where the transformer is, and how its output is pooled."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    # Another package's classes of the same names would be code that comes with the model.
    ours = all(module["type"].startswith("sentence_transformers.") for module in modules)
    if not ours or kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError("its modules are not a transformer, a pooling and a normalisation")
    pooling = _json(folder / modules[1]["path"] / "config.json")
    modes = [name for key, name in LEGACY_POOLS.items() if pooling.get(key)]
    other = any(
        pooling.get(key) for key in pooling if key.startswith("pooling_mode_") and key not in LEGACY_POOLS
    )
    mode = pooling.get("pooling_mode", modes[0] if len(modes) == 1 and not other else None)
    if mode not in POOLS or not pooling.get("include_prompt", True):
        raise UnsupportedModelError("it is pooled neither by its first token nor by the mean of all")
    return folder / modules[0]["path"], POOLS[mode]


def _weights(folder: Path, shape: BertShape, device: torch.device) -> dict[str, torch.Tensor]:
    if [each.name for each in folder.glob("*.safetensors")] != ["model.safetensors"]:
        raise UnsupportedModelError("its weights are in several files")
    weights = load_file(folder / "model.safetensors", device=str(device))
    wanted = weight_names(shape)
    if wanted - {*weights} or {*weights} - wanted - UNUSED:
        raise UnsupportedModelError("its weights are not those of a BERT alone")
    # A copy: what is read on a CPU is the file itself, mapped, and that may be replaced.
    return {name: weights[name].to(torch.float32, copy=device.type == "cpu") for name in wanted}


def _tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """The tokenizer as its file has it, where transformers would make the same one, and its longest text."""
    settings = _json(folder / "tokenizer_config.json")
    _allow("tokenizer_config.json", settings, TOKENIZER)
    file = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }
    model = {key: value for key, value in file["model"].items() if key != "vocab"}
    added = [*file["added_tokens"], *settings.get("added_tokens_decoder", {}).values()]
    named = [
        each.get("content") if isinstance(each, dict) else each
        for each in _json(folder / "special_tokens_map.json").values()
    ]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    alone, between = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    if (
        file["normalizer"] != normalizer
        or file["pre_tokenizer"] != {"type": "BertPreTokenizer"}
        or model != WORD_PIECE
        or any(each["content"] not in SPECIAL_TOKENS or each["normalized"] for each in added)
        or any(each not in SPECIAL_TOKENS for each in named)
        or (folder / "added_tokens.json").exists()
        or between != [tokenizer.token_to_id("[CLS]"), *alone, tokenizer.token_to_id("[SEP]")]
    ):
        raise UnsupportedModelError("its tokenizer is not BERT's")
    return tokenizer, int(settings.get("model_max_length") or NO_LIMIT)


def _allow(file: str, found: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
    for key, values in allowed.items():
        if found.get(key) not in values:
            raise UnsupportedModelError(f"{file} has {key} = {found.get(key)}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _make(
    weights: Mapping[str, torch.Tensor],
    shape: BertShape,
    pool: Pool,
    precision: str,
    window: int,
    prefix_length: int,
    *,
    compiled: bool,
) -> Made:
    """The fastest way that gives, for a sample, what plain attention gives in fp32."""
    del prefix_length  # of the prompt, which is pooled like all else
    words = weights["embeddings.word_embeddings.weight"]
    sample = sample_passages(len(words), window)

    def body(dtype: torch.dtype, attention: Attention, **how: bool) -> PackedBody:
        bert = PackedBert.of(weights, shape, dtype, attention, **how)
        return PackedBody(bert, pool)

    with torch.inference_mode():
        expected = body(torch.float32, reference, plain=True)(sample)
    head_size = words.shape[1] // shape.heads
    found, refused = find_packed(
        lambda dtype, attention, compiled: body(dtype, attention, compiled=compiled),
        words.device,
        precision,
        head_size,
        sample,
        expected,
        compiled=compiled,
    )
    if found is None:
        raise UnsupportedModelError("; ".join(refused))
    return found
