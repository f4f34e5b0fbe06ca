"""The concurrent reader: sees what any read_committed reader sees while faults go on, doubles above all."""

from __future__ import annotations

import time
from collections import Counter

from confluent_kafka import Consumer, Message, TopicPartition

from tests.kafka import Topics
from tests.oracle import decode, source_of

__all__ = ["Reader"]

Position = tuple[int, int]
MESSAGES = 500


class Reader:
    """Reads both output topics from their start, a little with every call of `read`.

    Attributes:
        done: Input records of each partition that have output.
        moved: When a partition last had output for a record that had none (`time.monotonic`).
        doubles: What came twice: the same passage of the same record, or a second dead letter or deletion.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._consumer = Consumer(
            {
                "bootstrap.servers": topics.bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "topic.metadata.refresh.interval.ms": "3000",
                "logger": _Silent(),
            }
        )
        self._assigned: set[tuple[str, int]] = set()
        self._seen: dict[tuple[Position, int], str] = {}
        self._positions: set[Position] = set()
        self.done: Counter[int] = Counter()
        self.moved: dict[int, float] = {}
        self.passages = 0
        self.doubles: list[str] = []
        self.look_for_partitions()

    def read(self, seconds: float) -> None:
        """Reads what comes within `seconds`."""
        for message in self._consumer.consume(MESSAGES, seconds):
            # A broker that is down comes back: the client goes on by itself.
            if message.error() is None:
                self._take(message)

    def close(self) -> None:
        self._consumer.close()

    def look_for_partitions(self) -> None:
        """Reads the partitions that were added as well."""
        found = self._consumer.list_topics(timeout=30.0).topics
        topics = (self._topics.embeddings, self._topics.dead_letters)
        now = {(topic, partition) for topic in topics for partition in found[topic].partitions}
        new = [TopicPartition(*each, 0) for each in now - self._assigned]
        self._consumer.incremental_assign(new)
        self._assigned = now

    def _take(self, message: Message) -> None:
        value = message.value()
        # Where a record has no passages, its dead letter or its deletion is the one thing that comes of it.
        passage = -1
        if message.topic() == self._topics.dead_letters or value is None:
            position = source_of(message)
        else:
            record = decode("embedding", value)
            position = (record["source"]["partition"], record["source"]["offset"])
            passage = record["passage"]["index"]
            self.passages += 1
        place = f"{message.topic()}/{message.partition()}/{message.offset()} at {message.timestamp()[1]}"
        if self._seen.setdefault((position, passage), place) != place:
            first = self._seen[position, passage]
            self.doubles.append(f"{position[0]}/{position[1]} passage {passage}: {first} and {place}")
        if position not in self._positions:
            self._positions.add(position)
            self.done[position[0]] += 1
            self.moved[position[0]] = time.monotonic()


class _Silent:
    """Lost connections are what the test is about."""

    def log(self, level: int, message: str, *args: object) -> None:
        pass
