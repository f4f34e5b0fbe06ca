"""Topics, records and conditions for tests that talk to a broker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import KafkaError, Message, TopicPartition

from embedstream.kafka import make_consumer
from embedstream.settings import KafkaSettings
from embedstream.topics import create_topics

__all__ = ["Topics", "make_topics", "read_all", "read_each", "wait_until"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Topics:
    """Three topics on a broker, of their own for one test."""

    bootstrap: str
    documents: str
    embeddings: str
    dead_letters: str

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=self.bootstrap,
            documents_topic=self.documents,
            embeddings_topic=self.embeddings,
            dead_letters_topic=self.dead_letters,
        )

    @property
    def flags(self) -> list[str]:
        """The same as flags of the command line."""
        return [
            *("--bootstrap-servers", self.bootstrap),
            *("--documents-topic", self.documents),
            *("--embeddings-topic", self.embeddings),
            *("--dead-letters-topic", self.dead_letters),
        ]


def make_topics(bootstrap: str, partitions: int = 3, prefix: str = "test") -> Topics:
    """Make three topics whose names no other test has."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    topics = Topics(bootstrap, f"{name}-documents", f"{name}-embeddings", f"{name}-dead-letters")
    created = create_topics(topics.kafka, partitions)
    assert len(created.created) == 3
    return topics


def read_all(
    bootstrap: str, topic: str, isolation: str = "read_committed", timeout: float = 60.0
) -> list[Message]:
    """Return every record of the topic; see `read_each`."""
    return list(read_each(bootstrap, topic, isolation, timeout))


def read_each(
    bootstrap: str, topic: str, isolation: str = "read_committed", timeout: float = 60.0
) -> Iterator[Message]:
    """Yield every record of the topic up to its end (read_committed: its last stable offset) as of now.

    Within a partition the records are in the order of their offsets. The timeout is for silence.
    """
    consumer = make_consumer(
        KafkaSettings(bootstrap_servers=bootstrap), group_id="unused", isolation_level=isolation
    )
    try:
        found = consumer.list_topics(timeout=10.0).topics
        assert topic in found, f"the topic {topic} does not exist"
        waiting = set(found[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in waiting])
        deadline = time.monotonic() + timeout
        while waiting:
            assert time.monotonic() < deadline, (
                f"{topic}: no end of partitions {sorted(waiting)} in {timeout} s"
            )
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                deadline = time.monotonic() + timeout
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            else:
                # Only what passes by itself, such as a connection that broke; the deadline ends the rest.
                assert error.retriable() or not error.fatal(), str(error)
    finally:
        consumer.close()


def wait_until(condition: Callable[[], Value | None], timeout: float = 30.0, message: str = "") -> Value:
    """Return the first true value of `condition`; fail with `message` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{message or 'the condition did not come true'} (waited {timeout} s)")
        time.sleep(0.05)
