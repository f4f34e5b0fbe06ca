"""Exact search: the passages nearest to a question, of vectors that come a batch at a time.

    source = VectorSource(snapshot.model, snapshot.model_fingerprint, snapshot.dim)
    question = encode_question(settings.encoder, "How do I catch an exception?", source)
    for hit in nearest(topic_batches(reader), question, 5):
        print(hit.score, hit.document_id, hit.text)

Every vector is compared, and only a batch and the best so far are in memory. The order of the hits does not
depend on how the vectors are divided into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstream.errors import ConfigError
from embedstream.newest import NewestVersions
from embedstream.settings import EncoderSettings, KafkaSettings
from embedstream.snapshot import SnapshotReader, take_snapshot
from schemas.records import Embedding

__all__ = [
    "Batch",
    "Hit",
    "Index",
    "VectorSource",
    "encode_question",
    "encode_questions",
    "nearest",
    "read_index",
    "snippet",
    "topic_batches",
]

_BATCH_ROWS = 1024
# Scores that differ by less are equal: where sums are taken in another order the last digits differ.
_SCORE_DIGITS = 6
_SNIPPET_CHARS = 160


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage, and the cosine between its vector and the question's (1: the same direction)."""

    score: float
    id: str
    document_id: str
    start_char: int
    end_char: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some vectors and what they are of.

    Attributes:
        vectors: float32 or float16, shape (rows, dim): unit vectors.
        hit: Makes the hit of a row and its score.
    """

    vectors: NDArray[Any]
    hit: Callable[[int, float], Hit]


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Which model vectors are of, and how long they are."""

    model: str
    model_fingerprint: str
    dim: int


class Index:
    """The passages that count of a small topic, all in memory.

    Attributes:
        passages: In the order of the topic.
    """

    def __init__(self, passages: Sequence[Embedding]) -> None:
        """Take the passages, all of one model."""
        self.passages = tuple(passages)

    @property
    def dim(self) -> int:
        """Length of a vector; 0 where there is none."""
        return self.passages[0].dim if self.passages else 0

    def nearest(self, question: NDArray[np.float32], count: int) -> list[Hit]:
        """Return the passages whose vectors are nearest; see `nearest`."""
        return nearest(_batches(self.passages), question, count)


def nearest(batches: Iterable[Batch], question: NDArray[np.float32], count: int) -> list[Hit]:
    """Return the passages whose vectors are nearest, the nearest first; equal ones by document and position.

    Args:
        batches: What is searched.
        question: float32, shape (dim,): a unit vector.
        count: How many passages, at most.
    """
    best: list[Hit] = []
    exact = question.astype(np.float64)
    for batch in batches:
        # In double precision rounding is far below what `_SCORE_DIGITS` keeps.
        scores = np.round(batch.vectors.astype(np.float64) @ exact, _SCORE_DIGITS)
        least = best[-1].score if len(best) == count else -np.inf
        if count < len(scores):
            least = max(least, np.partition(scores, -count)[-count])
        best += (batch.hit(int(row), float(scores[row])) for row in np.flatnonzero(scores >= least))
        best.sort(key=lambda hit: (-hit.score, hit.document_id, hit.start_char, hit.id))
        del best[count:]
    return best


def topic_batches(reader: SnapshotReader) -> Iterator[Batch]:
    """Yield the vectors of the passages that count; the reader must have chosen them."""
    return _batches(embedding for _, embedding in reader.passages())


def read_index(kafka: KafkaSettings, model_fingerprint: str) -> Index:
    """Read all passages that count of one model into memory: for small topics.

    What can't be read, and what is of another model, is passed over: `verify` tells of it.

    Raises:
        ConfigError: A topic does not exist.
        ServiceUnavailableError: No broker answers.
    """
    snapshot = take_snapshot(kafka, model_fingerprint)
    with NewestVersions() as newest:
        reader = SnapshotReader(kafka, snapshot, newest, is_only_model=False)
        reader.choose()
        return Index([embedding for _, embedding in reader.passages()])


def encode_question(encoder: EncoderSettings, question: str, source: VectorSource) -> NDArray[np.float32]:
    """Return a question's vector, made with the model's query prompt if it has one, on the CPU.

    Args:
        encoder: `model` and `max_tokens` are used.
        question: The question.
        source: What the vectors to be searched are of.

    Returns:
        float32, shape (source.dim,): a unit vector.

    Raises:
        ConfigError: The model can't be found, or is not the one that the vectors are of.
    """
    from consumer.model import load_encoder

    asked = encoder.model_copy(update={"device": "cpu", "precision": "fp32", "truncate_dim": None})
    info = load_encoder(asked).info
    if source.dim < info.dim:
        info = load_encoder(asked.model_copy(update={"truncate_dim": source.dim})).info
    if (info.fingerprint, info.dim) != (source.model_fingerprint, source.dim):
        raise ConfigError(
            f"encoder.model = {encoder.model} ({info.fingerprint}, {info.dim} dimensions) is not what made"
            f" these vectors: that was {source.model} ({source.model_fingerprint}, {source.dim} dimensions)",
            "name that with --model, and with --max-tokens where `consume` was given it",
        )
    [vector] = encode_questions(encoder.model, [question], source.dim)
    return np.asarray(vector, np.float32)


def encode_questions(model: str, questions: Sequence[str], dim: int) -> NDArray[np.float32]:
    """Return the vectors of questions, made with the model's query prompt if it has one, on the CPU.

    Returns:
        float32, shape (len(questions), dim): unit vectors.

    Raises:
        ConfigError: The model can't be found.
    """
    from consumer.model_files import find_model

    folder = find_model(model)
    from consumer.questions import encode

    return encode(folder, questions, dim)


def snippet(hit: Hit) -> str:
    """Return the beginning of a hit's text, on one line."""
    text = " ".join((hit.text or "").split())
    return text if len(text) <= _SNIPPET_CHARS else text[: _SNIPPET_CHARS - 1].rstrip() + "…"


def _batches(embeddings: Iterable[Embedding]) -> Iterator[Batch]:
    rest = iter(embeddings)
    while some := list(islice(rest, _BATCH_ROWS)):
        yield Batch(np.stack([each.vector for each in some]), _maker(some))


def _maker(passages: Sequence[Embedding]) -> Callable[[int, float], Hit]:
    def hit(row: int, score: float) -> Hit:
        each = passages[row]
        return Hit(score, each.id, each.document_id, each.start_char, each.end_char, each.text)

    return hit
