"""Sends documents that are known to the last one: what must become of each stands in a table."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

from confluent_kafka import KafkaError, Message

from embedstream.kafka import make_producer
from schemas.deletion import deletion_headers
from schemas.records import Document, Segment
from schemas.wire import encode_document
from tests.faults.daemon import NAN_WORD, RAISING_WORD
from tests.kafka import Topics

__all__ = ["NUMBER_HEADER", "Feed"]

NUMBER_HEADER = "test.number"
# What is sent, how often, and the dead letter that must come of it.
KINDS = {
    "document": (0.93, None),
    "deletion": (0.02, None),
    "no avro": (0.01, "not_avro"),
    "cut off": (0.01, "corrupt"),
    "blank": (0.01, "empty"),
    "raising": (0.01, "encode_failed"),
    "nan": (0.01, "not_finite"),
}
_TEXT = """
    labour capital value money price profit rent wage credit machine market nature history state class party
    struggle theory practice science philosophy letter chapter volume page work day night hour year
"""
WORDS = _TEXT.split()


class Feed:
    """The producer: keeps enough records ahead of the daemons.

    Attributes:
        partitions: Over how many the records are spread; it may be raised when there are more.
        expected: For each record's number (in its header), the reason of its dead letter, or None.
        acknowledged: Records in each partition.
    """

    def __init__(self, topics: Topics, rng: random.Random, partitions: int) -> None:
        self._topic = topics.documents
        self._rng = rng
        self.partitions = partitions
        self._producer = make_producer(
            topics.kafka, client_id="feed", topic_metadata_refresh_interval_ms=1000
        )
        self.expected: dict[int, str | None] = {}
        self.acknowledged: Counter[int] = Counter()
        self.failed: list[str] = []

    @property
    def sent(self) -> int:
        return len(self.expected)

    def send(self, count: int) -> None:
        """Sends so many records of mixed kinds, spread over the partitions; does not wait for them."""
        weights = [share for share, _ in KINDS.values()]
        for kind in self._rng.choices(list(KINDS), weights, k=count):
            self.send_one(kind, self.sent % self.partitions)

    def send_one(self, kind: str, partition: int) -> None:
        number = self.sent
        self.expected[number] = KINDS[kind][1]
        headers = [(NUMBER_HEADER, str(number).encode())]
        if kind == "deletion":
            # Of the record that went to this partition the last time round.
            key, value = f"document-{max(0, number - self.partitions)}", None
            headers += deletion_headers(number)
        else:
            key, value = f"document-{number}", self._value(kind, number)
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    partition=partition,
                    headers=headers,  # type: ignore[arg-type]
                    on_delivery=self._report,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def knows(self, partitions: int) -> bool:
        """Whether the client has seen that there are so many partitions."""
        found = self._producer.list_topics(self._topic, timeout=10.0).topics[self._topic]
        return len(found.partitions) >= partitions

    def serve(self) -> None:
        """Takes delivery reports; call it now and then."""
        self._producer.poll(0)

    def flush(self, timeout: float = 60.0) -> None:
        left = self._producer.flush(timeout)
        assert left == 0, f"{left} documents were not taken by the broker in {timeout} s"
        assert not self.failed, self.failed[:3]

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append(str(error))
        else:
            self.acknowledged[message.partition() or 0] += 1

    def _value(self, kind: str, number: int) -> bytes:
        if kind == "no avro":
            return f"record {number} is no Avro".encode()
        # One to five passages; a number in each sentence, so that no two are alike.
        words = [self._rng.choice(WORDS) for _ in range(self._rng.randint(5, 200))]
        if kind in ("raising", "nan"):
            place = self._rng.randrange(len(words))
            words[place] = RAISING_WORD if kind == "raising" else NAN_WORD
        text = " " * 5 if kind == "blank" else f"{number} " + " ".join(words) + "."
        document = Document(
            id=f"document-{number}",
            version=number,
            content=text,
            content_hash=hashlib.sha256(text.encode()).hexdigest(),
            source="tests.faults.feed",
            segment=Segment(index=0, count=1, start_char=0),
            metadata={},
        )
        value = encode_document(document)
        return value[: len(value) // 2] if kind == "cut off" else value
