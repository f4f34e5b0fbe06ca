"""What goes wrong around a transaction: another daemon takes the id over, or offsets stay pending."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from consumer.deliver import NotDelivered
from consumer.outbound import ItemRecords, OutboundRecord
from consumer.ownership import Ownership
from consumer.records import EndOfPartition
from consumer.sending import BATCH_RECORDS
from consumer.transaction import TransactionalDelivery
from embedstream.errors import FencedError, TryAgainError
from embedstream.kafka import make_admin, make_consumer, make_producer
from embedstream.offsets import end_offsets
from tests.brokers import ApacheCluster, BrokerHandle
from tests.consuming import committed, documents, send
from tests.daemons import Daemons, verified
from tests.faults.network import Network, find_toxiproxy
from tests.kafka import Topics, make_topics, read_all, wait_until

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


def a_delivery(
    topics: Topics,
    group: Group,
    producer: Callable[[], Any],
    ownership: Ownership,
    transactional_id: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> TransactionalDelivery:
    return TransactionalDelivery(
        producer,
        group,  # type: ignore[arg-type]
        ownership,
        topic=topics.documents,
        transactional_id=transactional_id,
        fingerprint="hash",
        chosen={},
        timeout_seconds=timeout_seconds,
        stopping=lambda: False,
    )


@contextlib.contextmanager
def pending_offsets(topics: Topics, group_id: str) -> Iterator[None]:
    """Offsets of partition 0 in a transaction that stays open, as that of a daemon that has just died."""
    consumer = make_consumer(topics.kafka, group_id=group_id)
    consumer.assign([TopicPartition(topics.documents, 0)])
    ghost = make_producer(topics.kafka, transactional_id=uuid.uuid4().hex)
    ghost.init_transactions(TIMEOUT_SECONDS)
    ghost.begin_transaction()
    offsets = [TopicPartition(topics.documents, 0, 1)]
    ghost.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), TIMEOUT_SECONDS)
    yield
    ghost.abort_transaction(TIMEOUT_SECONDS)
    consumer.close()


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
            # It learns of it from another partition's record, before it hands over the next batch.
            old.produce(topics.embeddings, b"", partition=2)
            with contextlib.suppress(KafkaException):
                old.flush(TIMEOUT_SECONDS)

    def producer() -> Any:
        new = make_producer(topics.kafka, transactional_id=transactional_id)
        return new if rivals else Watched(new, name, when, fence)

    delivery = a_delivery(topics, group, producer, ownership, transactional_id)
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


def test_a_call_that_never_returns_is_left_behind_with_its_producer(
    topics: Topics, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sending the offsets does in librdkafka 2.16 when connections were cut."""
    monkeypatch.setattr("consumer.transaction.CALL_SECONDS", 0.5)
    transactional_id, producers, cut = uuid.uuid4().hex, list[Any](), threading.Event()

    def wait(_: Producer) -> None:
        cut.wait(TIMEOUT_SECONDS)

    def producer() -> Any:
        producers.append(make_producer(topics.kafka, transactional_id=transactional_id))
        if len(producers) > 1:
            return producers[-1]
        return Watched(producers[-1], "send_offsets_to_transaction", "before", wait)

    delivery = a_delivery(topics, group, producer, Ownership(), transactional_id)
    delivery.prepare()
    with pytest.raises(NotDelivered, match="does not end"):
        delivery.deliver(_items(topics))
    delivery.deliver(_items(topics))
    assert len(producers) == 2
    assert len(read_all(topics.bootstrap, topics.embeddings)) == 2 * BATCH_RECORDS + 2
    cut.set()


def test_a_producer_that_does_not_know_of_added_partitions_is_replaced(topics: Topics, group: Group) -> None:
    """Else the whole daemon would wait for its next look at the topics, which is five minutes away."""

    def items(offset: int, *partitions: int) -> list[ItemRecords]:
        records = tuple(OutboundRecord(topics.embeddings, each, b"key", b"value", ()) for each in partitions)
        return [ItemRecords(EndOfPartition(topics.documents, 0, offset, 1), records)]

    transactional_id = uuid.uuid4().hex

    def producer() -> Producer:
        return make_producer(topics.kafka, transactional_id=transactional_id)

    delivery = a_delivery(topics, group, producer, Ownership(), transactional_id)
    delivery.prepare()
    delivery.deliver(items(1, 0))
    admin = make_admin(topics.kafka)
    admin.create_partitions([NewPartitions(topics.embeddings, 4)])[topics.embeddings].result()
    with pytest.raises(NotDelivered, match="_UNKNOWN_PARTITION"):
        delivery.deliver(items(2, 0, 3))
    delivery.deliver(items(2, 0, 3))
    assert sorted(each.partition() or 0 for each in read_all(topics.bootstrap, topics.embeddings)) == [
        0,
        0,
        3,
    ]


@pytest.mark.slow
def test_what_the_broker_has_of_an_aborted_transaction_is_not_taken_for_what_is_delivered_again(
    kafka_home: Path, tmp_path: Path
) -> None:
    """A record's answer is lost with its connection, and the transaction aborted before it is sent again.

    librdkafka 2.16 then gives its sequence number to the next record of that partition. The broker has one of
    that number, and tells the next transaction that it has this one already.
    """
    server = find_toxiproxy()
    if server is None:
        pytest.skip("toxiproxy-server is neither on PATH nor in ../shared/tools, and TOXIPROXY is not set")
    cluster = ApacheCluster(kafka_home, tmp_path / "kafka")
    with Network(server, cluster, ["daemon"]) as network, cluster:
        topics = make_topics(cluster.bootstrap)
        group, ownership, transactional_id = Group(topics), Ownership(), uuid.uuid4().hex
        record = OutboundRecord(topics.dead_letters, 0, b"key", b"value", (("error.class", b"empty"),))
        items = [ItemRecords(EndOfPartition(topics.documents, 0, 5, 1), (record,))]
        waiting: list[int] = []

        def note(statistics: str) -> None:
            found = json.loads(statistics)["topics"].get(topics.dead_letters, {"partitions": {}})
            queues = found["partitions"].get("0", {"xmit_msgq_cnt": 0, "msgq_cnt": 0, "msgs_inflight": 0})
            waiting[:] = [queues["xmit_msgq_cnt"] + queues["msgq_cnt"], queues["msgs_inflight"]]

        def new_producer() -> Producer:
            routed = topics.kafka.model_copy(update={"bootstrap_servers": network.bootstrap("daemon")})
            return make_producer(
                routed, transactional_id=transactional_id, statistics_interval_ms=50, stats_cb=note
            )

        def lose_the_answer(producer: Producer) -> None:
            """Of the window's record; one before it has the partition in the transaction."""
            producer.produce(topics.dead_letters, b"of the aborted transaction", partition=0)
            assert producer.flush(TIMEOUT_SECONDS) == 0
            network.answer_no_more("daemon")

        def lose_everything(producer: Producer) -> None:
            admin = make_admin(topics.kafka)
            wait_until(lambda: end_offsets(admin, topics.dead_letters, [0])[0] == 2, 20, "it is not written")
            network.cut("daemon")
            wait_until(lambda: (producer.poll(0.01), waiting == [1, 0])[1], 20, "it is not to be sent again")
            _lose_partitions(ownership, topics)
            threading.Timer(1.0, network.mend, ["daemon"]).start()

        def producer() -> Any:
            new = new_producer()
            if waiting:
                return new
            watched = Watched(new, "produce", "before", lose_the_answer)
            return Watched(watched, "flush", "after", lose_everything)  # type: ignore[arg-type]

        delivery = a_delivery(topics, group, producer, ownership, transactional_id)
        delivery.prepare()
        with pytest.raises(NotDelivered, match="partitions were lost"):
            delivery.deliver(items)
        ownership.close_transaction()
        assert ownership.open_transaction([]) == []
        delivery.deliver(items)
        assert [each.value() for each in read_all(topics.bootstrap, topics.dead_letters)] == [b"value"]
        group.close()


@pytest.mark.slow
def test_a_window_of_which_nobody_can_tell_whether_it_landed_ends_the_daemon(
    kafka_broker: BrokerHandle,
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    group = Group(topics)
    transactional_id = uuid.uuid4().hex

    def broken(_: Producer) -> None:
        raise KafkaException(KafkaError(KafkaError._FAIL))

    def producer() -> Any:
        new = make_producer(topics.kafka, transactional_id=transactional_id)
        return Watched(new, "commit_transaction", "before", broken)

    delivery = a_delivery(topics, group, producer, Ownership(), transactional_id, timeout_seconds=1.0)
    delivery.prepare()
    with (
        pending_offsets(topics, "group"),
        structlog.testing.capture_logs() as logs,
        pytest.raises(TryAgainError, match="find-hanging"),
    ):
        delivery.deliver(_items(topics))
    # Said once, however often it was tried.
    assert [each["event"] for each in logs] == ["producer_replaced", "waiting_for_offsets"]
    group.close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_partition_whose_offset_stays_pending_is_told_and_not_begun(
    kafka_broker: BrokerHandle, daemons: Daemons, protocol: str
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(60))
    env = {
        "EMBEDSTREAM_CONSUMER__TRANSACTION_TIMEOUT_SECONDS": "1",
        "EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol,
    }
    with pending_offsets(topics, topics.documents):
        daemon = daemons.start(topics, env=env)
        wait_until(lambda: daemon.events("partitions_without_offset"), 60, "nothing is told")
        told = daemon.events("partitions_without_offset")[0]
        assert told["partitions"] == [0]
        assert "find-hanging" in told["mend"]
        # As often as the daemon looks again, and then some.
        wait_until(lambda: len(daemon.events("partitions_without_offset")) > 2, 60, "it is told once")
        assert not daemon.events("window_delivered")
    wait_until(lambda: set(committed(topics)) == {0, 1, 2}, 60, "it does not go on with the partitions")
    daemon.process.terminate()
    assert daemon.wait() == 0
    assert verified(topics)


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
