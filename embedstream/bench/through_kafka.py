"""Kafka to Kafka: a whole daemon over topics of its own, which are deleted afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from embedstream.kafka import make_admin, make_producer
from embedstream.settings import CacheSettings, KafkaSettings, SchemaRegistrySettings, Settings
from embedstream.topics import create_topics

if TYPE_CHECKING:
    from consumer.encoder import Encoder

__all__ = ["KafkaRun", "measure_kafka"]

PARTITIONS = 2
DELETE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class KafkaRun:
    """What a daemon took from its model's load to its last commit."""

    documents: int
    passages: int
    tokens: int
    seconds: float


def measure_kafka(settings: Settings, texts: Sequence[str]) -> KafkaRun:
    """Send texts through a daemon of these settings, in topics and a group of its own.

    Raises:
        ServiceUnavailableError: No broker answers.
        EmbedstreamError: The broker refuses the topics, or the daemon ended early.
    """
    name = f"embedstream-bench-{uuid.uuid4().hex[:12]}"
    topics = {each: f"{name}-{each}" for each in ("documents", "embeddings", "dead-letters")}
    kafka = settings.kafka.model_copy(
        update={f"{each.replace('-', '_')}_topic": topic for each, topic in topics.items()}
    )
    changed = {"group": name, "instance_id": name, "until_drained": True}
    consumer = settings.consumer.model_copy(update=changed)
    with _topics(kafka, name):
        _send(kafka, texts, settings.producer.segment_bytes)
        # What is measured is the encoder, and a registry would keep the topics' subjects.
        others = {"cache": CacheSettings(), "schema_registry": SchemaRegistrySettings()}
        own = {"kafka": kafka, "consumer": consumer, **others}
        return _run(settings.model_copy(update=own), len(texts))


@contextlib.contextmanager
def _topics(kafka: KafkaSettings, group: str) -> Iterator[None]:
    create_topics(kafka, PARTITIONS)
    admin = make_admin(kafka)
    try:
        yield
    finally:
        names = [kafka.documents_topic, kafka.embeddings_topic, kafka.dead_letters_topic]
        futures = [
            *admin.delete_topics(names, operation_timeout=DELETE_SECONDS).values(),
            *admin.delete_consumer_groups([group], request_timeout=DELETE_SECONDS).values(),
        ]
        for future in futures:
            with contextlib.suppress(KafkaException):  # gone already, or not there yet
                future.result(DELETE_SECONDS)


def _send(kafka: KafkaSettings, texts: Sequence[str], segment_bytes: int) -> None:
    from producer.segments import cut
    from schemas.records import Document, Segment
    from schemas.wire import encode_document

    producer = make_producer(kafka)
    now = time.time_ns() // 1_000_000
    for number, text in enumerate(texts):
        digest = hashlib.sha256(text.encode()).hexdigest()
        parts = list(cut(text, segment_bytes))
        start = 0
        for index, part in enumerate(parts):
            document = Document(
                id=f"sample-{number}",
                version=now,
                content=part,
                content_hash=digest,
                source="embedstream bench",
                segment=Segment(index=index, count=len(parts), start_char=start),
                metadata={},
            )
            start += len(part)
            while True:
                try:
                    value, key = encode_document(document), document.id
                    producer.produce(kafka.documents_topic, value, key, partition=number % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.2)
    producer.flush()


def _run(settings: Settings, documents: int) -> KafkaRun:
    from consumer.daemon import Daemon
    from consumer.model import load_encoder

    loaded: list[float] = []

    def load_model() -> Encoder:
        encoder = load_encoder(settings.encoder, settings.consumer.overflow)
        loaded.append(time.time())
        return encoder

    daemon = Daemon(settings, load_model)
    daemon.run()

    def value(name: str) -> float:
        return daemon.metrics.registry.get_sample_value(f"embedstream_{name}") or 0.0

    # To the last commit, not to the end: a daemon that is done looks twice a second whether it is.
    seconds = value("last_commit_timestamp_seconds") - loaded[0]
    return KafkaRun(documents, int(value("passages_total")), int(value("tokens_total")), seconds)
