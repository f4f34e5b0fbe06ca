"""Asks one question of an export or of the embeddings topic: what `embedstream search` does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedstream.newest import NewestVersions
from embedstream.parquet_files import export_batches, export_source
from embedstream.search import Hit, VectorSource, encode_question, nearest, snippet, topic_batches
from embedstream.settings import EncoderSettings, Settings
from embedstream.snapshot import SnapshotReader, take_snapshot

__all__ = ["Found", "find"]


@dataclass(frozen=True)
class Found:
    """The passages nearest to a question.

    Attributes:
        where: The export or the topic that was searched.
        source: What its vectors are of.
        hits: The nearest first.
        seconds: How long it took, with loading the model.
    """

    question: str
    where: str
    source: VectorSource
    hits: tuple[Hit, ...]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        return {
            "question": self.question,
            "in": self.where,
            "model": self.source.model,
            "model_fingerprint": self.source.model_fingerprint,
            "passages": [
                {
                    "document": each.document_id,
                    "score": each.score,
                    "start_char": each.start_char,
                    "end_char": each.end_char,
                    "id": each.id,
                    "text": each.text,
                }
                for each in self.hits
            ],
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read: score, document, characters from and to, beginning of the text."""
        for hit in self.hits:
            yield f"{hit.score:.3f}  {hit.document_id}  {hit.start_char}-{hit.end_char}  {snippet(hit)}"
        if not self.hits:
            yield f"{self.where} holds no passages"


def find(
    settings: Settings,
    question: str,
    top: int,
    *,
    where: Path | None = None,
    model: str | None = None,
    fingerprint: str | None = None,
) -> Found:
    """Return the passages nearest to a question.

    Args:
        settings: `kafka` and `encoder` are used.
        question: The question.
        top: How many passages, at most.
        where: An export; None searches the embeddings topic as far as it goes by now.
        model: Name or path of the model; None takes the one that the vectors name.
        fingerprint: Of the model whose embeddings are meant, where the topic holds several.

    Raises:
        ConfigError: There is no such export or topic, or the model is not the one that the vectors are of.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    began = time.monotonic()
    encoder = settings.encoder
    if where is not None:
        source = export_source(where)
        vector = encode_question(_named(encoder, model or source.model), question, source)
        hits = nearest(export_batches(where), vector, top)
    else:
        snapshot = take_snapshot(settings.kafka, fingerprint)
        source = VectorSource(snapshot.model, snapshot.model_fingerprint, snapshot.dim)
        # First the question: a wrong model is not told after an hour of reading.
        vector = encode_question(_named(encoder, model or source.model), question, source)
        with NewestVersions() as newest:
            alone = fingerprint is None
            reader = SnapshotReader(settings.kafka, snapshot, newest, is_only_model=alone)
            reader.choose()
            hits = nearest(topic_batches(reader), vector, top)
    name = settings.kafka.embeddings_topic if where is None else str(where)
    return Found(question, name, source, tuple(hits), time.monotonic() - began)


def _named(encoder: EncoderSettings, model: str) -> EncoderSettings:
    return encoder.model_copy(update={"model": model})
