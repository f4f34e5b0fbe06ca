"""A producer whose transactional id is taken over within a window: it ends, and takes nothing back."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from consumer.outbound import ItemRecords, OutboundRecord
from consumer.ownership import Ownership
from consumer.records import EndOfPartition
from consumer.sending import BATCH_RECORDS
from consumer.transaction import TransactionalDelivery
from embedstream.errors import FencedError
from embedstream.kafka import make_consumer, make_producer
from tests.kafka import Topics, read_all

TIMEOUT_SECONDS = 20.0
# A call of the producer that a rival comes before, or after.
PLACES = (
    ("begin_transaction", "before"),
    ("produce_batch", "before"),
    ("produce_batch", "after"),
    ("produce", "after"),
    ("flush", "before"),
    ("send_offsets_to_transaction", "before"),
    ("send_offsets_to_transaction", "after"),
    ("commit_transaction", "before"),
    ("abort_transaction", "before"),
)


class Group:
    """As much of a poller as a delivery asks for; the consumer is real."""

    def __init__(self, topics: Topics) -> None:
        self._consumer = make_consumer(topics.kafka, group_id="group")
        self._consumer.assign([TopicPartition(topics.documents, 0)])

    def request(self, call: Callable[[Consumer], Any], _: float = 0.0) -> Any:
        return call(self._consumer)

    def group_metadata(self, consumer: Consumer) -> Any:
        return consumer.consumer_group_metadata()

    def close(self) -> None:
        self._consumer.close()


class Watched:
    """A producer that does something once, before or after the first call of one name."""

    def __init__(self, producer: Producer, name: str, when: str, then: Callable[[Producer], None]) -> None:
        self._producer, self._name, self._when, self._then = producer, name, when, then
        self._done = False

    def __len__(self) -> int:
        return len(self._producer)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._producer, name)
        if name != self._name or self._done:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._done = True
            if self._when == "before":
                self._then(self._producer)
            result = method(*args, **kwargs)
            if self._when == "after":
                self._then(self._producer)
            return result

        return call


@pytest.fixture
def group(topics: Topics) -> Iterator[Group]:
    """A group that has not committed anything."""
    group = Group(topics)
    yield group
    group.close()


@pytest.mark.parametrize(("name", "when"), PLACES)
def test_a_daemon_whose_id_was_taken_over_ends_and_leaves_it_to_the_other(
    topics: Topics, group: Group, name: str, when: str
) -> None:
    transactional_id = uuid.uuid4().hex
    rivals: list[Producer] = []
    ownership = Ownership()

    def fence(old: Producer) -> None:
        rival = make_producer(topics.kafka, transactional_id=transactional_id)
        rival.init_transactions(TIMEOUT_SECONDS)
        rivals.append(rival)
        if name.startswith("produce"):
            # It learns of it from what it has sent, before it hands over the next batch.
            with contextlib.suppress(KafkaException):
                old.flush(TIMEOUT_SECONDS)

    def producer() -> Any:
        new = make_producer(topics.kafka, transactional_id=transactional_id)
        return new if rivals else Watched(new, name, when, fence)

    delivery = TransactionalDelivery(
        producer,
        group,  # type: ignore[arg-type]
        ownership,
        topic=topics.documents,
        transactional_id=transactional_id,
        fingerprint="hash",
        timeout_seconds=TIMEOUT_SECONDS,
        stopping=lambda: False,
    )
    delivery.prepare()
    if name == "abort_transaction":
        _lose_partitions(ownership, topics)
    with pytest.raises(FencedError):
        delivery.deliver(_items(topics))
    (rival,) = rivals
    rival.begin_transaction()
    rival.produce(topics.embeddings, b"of the rival", partition=0)
    rival.commit_transaction(TIMEOUT_SECONDS)
    assert [each.value() for each in read_all(topics.bootstrap, topics.embeddings)] == [b"of the rival"]


def _items(topics: Topics) -> list[ItemRecords]:
    """More than one batch, and a record that goes by itself."""
    plain = [OutboundRecord(topics.embeddings, 0, b"key", b"value", ())] * (2 * BATCH_RECORDS)
    headed = [OutboundRecord(topics.embeddings, 0, b"key", b"value", (("name", b"value"),))] * 2
    return [ItemRecords(EndOfPartition(topics.documents, 0, 5, 1), (*plain, *headed))]


def _lose_partitions(ownership: Ownership, topics: Topics) -> None:
    """As when the group has expelled the daemon meanwhile: then it aborts."""
    partition = (topics.documents, 0)
    ownership.assign([partition])
    assert ownership.open_transaction([EndOfPartition(*partition, 5, 1)])
    ownership.withdraw([partition], lost=True)
