"""The passages that every comparison of encoders runs on: real text, in lengths from a sentence to a window.

passages = mixed_passages(encoder.splitter)
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from consumer.split import Splitter

__all__ = ["CORPUS", "PassageSet", "contents", "corpus_files", "full_passages", "mixed_passages"]

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
# A run of sentences is cut so fine, and up to so many of these make a passage.
PIECE_CHARS = 315
MOST_PIECES = 10


@dataclass(frozen=True)
class PassageSet:
    """Passages in the order they arrive in.

    Attributes:
        texts: What each reads.
        token_ids: int32, shape (n,) each: what the model reads, special tokens included.
    """

    texts: list[str]
    token_ids: list[NDArray[np.int32]]

    @property
    def tokens(self) -> int:
        """Tokens of all passages."""
        return sum(map(len, self.token_ids))

    @property
    def mean_tokens(self) -> float:
        """Tokens of a passage on average."""
        return self.tokens / len(self.texts)


def corpus_files() -> list[Path]:
    """The corpus' documents in an order that mixes its shards, the same each time."""
    return sorted(CORPUS.glob("shard_*/*.json"), key=lambda path: path.name[::-1])


def contents() -> list[str]:
    """The texts of the corpus, or where there is none, of the Python reference."""
    read = [json.loads(path.read_text(encoding="utf-8"))["content"] for path in corpus_files()]
    return read or [topics[name] for name in sorted(topics)]


def mixed_passages(splitter: Splitter, count: int = 1500) -> PassageSet:
    """Passages of many lengths, spread over the corpus; about 330 tokens on average with a window of 512.

    A whole corpus cut to full windows would be nearly all of one length, which makes batching too easy.
    """
    drawn = random.Random(5)
    texts: list[str] = []
    for content in contents():
        place = 0
        while place < len(content):
            end = place + PIECE_CHARS * drawn.randint(1, MOST_PIECES)
            texts.append(content[place:end])
            place = end
    chosen = drawn.sample(texts, min(count, len(texts)))
    splits = [(text, split) for text, split in zip(chosen, splitter.split_many(chosen), strict=True)]
    first = [(text, split.passages[0]) for text, split in splits if split.passages]
    return PassageSet(
        [text[: passage.end_char] for text, passage in first], [passage.token_ids for _, passage in first]
    )


def full_passages(splitter: Splitter, count: int) -> PassageSet:
    """Passages that fill the splitter's window as documents' do, in the order of the corpus."""
    texts: list[str] = []
    token_ids: list[NDArray[np.int32]] = []
    for content in contents():
        (split,) = splitter.split_many([content])
        # The last of a document is of any length.
        for passage in split.passages[:-1]:
            texts.append(content[passage.start_char : passage.end_char])
            token_ids.append(passage.token_ids)
        if len(texts) >= count:
            break
    return PassageSet(texts[:count], token_ids[:count])
