"""What the pipeline asks of a broker, asked of each broker that the tests use."""

from __future__ import annotations

import socket
import uuid

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)

from embedstream.kafka import make_consumer, make_producer
from embedstream.offsets import committed_offsets
from tests.brokers import free_ports
from tests.kafka import Topics, read_all, wait_until


def transactional(topics: Topics, name: str) -> Producer:
    producer = make_producer(topics.kafka, transactional_id=f"{topics.documents}-{name}")
    producer.init_transactions(30.0)
    return producer


def send(producer: Producer, topic: str, *values: str, partition: int = 0) -> None:
    for value in values:
        producer.produce(topic, value.encode(), partition=partition)


def values(records: list[Message]) -> list[str]:
    found = [record.value() for record in records]
    return [value.decode() for value in found if value is not None]


def next_message(consumer: Consumer) -> Message:
    """Return the next record or partition EOF."""
    return wait_until(lambda: consumer.poll(0.2), 30.0, "the consumer gets nothing")


def test_read_committed_sees_a_transaction_only_when_it_is_committed(topics: Topics) -> None:
    producer = transactional(topics, "a")
    producer.begin_transaction()
    send(producer, topics.embeddings, "one", "two")
    producer.flush(30.0)
    assert values(read_all(topics.bootstrap, topics.embeddings)) == []
    assert values(read_all(topics.bootstrap, topics.embeddings, "read_uncommitted")) == ["one", "two"]
    producer.commit_transaction(30.0)
    assert values(read_all(topics.bootstrap, topics.embeddings)) == ["one", "two"]


def test_an_aborted_transaction_is_never_seen_and_the_end_lies_behind_it(topics: Topics) -> None:
    producer = transactional(topics, "a")
    producer.begin_transaction()
    send(producer, topics.embeddings, "lost")
    producer.flush(30.0)
    producer.abort_transaction(30.0)
    producer.begin_transaction()
    send(producer, topics.embeddings, "kept")
    producer.commit_transaction(30.0)
    producer.begin_transaction()
    send(producer, topics.embeddings, "lost again")
    producer.flush(30.0)
    producer.abort_transaction(30.0)

    consumer = make_consumer(topics.kafka, group_id="unused")
    consumer.assign([TopicPartition(topics.embeddings, 0, 0)])
    record, end = next_message(consumer), next_message(consumer)
    _, high = consumer.get_watermark_offsets(TopicPartition(topics.embeddings, 0), timeout=10.0)
    consumer.close()
    assert values([record]) == ["kept"]
    error = end.error()
    assert error is not None
    assert error.code() == KafkaError._PARTITION_EOF
    assert end.offset() == high


def test_offsets_and_their_metadata_land_with_the_transaction_or_not_at_all(topics: Topics) -> None:
    group = f"group-{uuid.uuid4().hex[:8]}"
    feeder = make_producer(topics.kafka)
    send(feeder, topics.documents, "a", "b", "c")
    assert feeder.flush(30.0) == 0
    consumer = make_consumer(topics.kafka, group_id=group, group_instance_id="one")
    consumer.subscribe([topics.documents])
    wait_until(lambda: consumer.poll(0.2), 30.0, "no record")
    producer = transactional(topics, "a")

    def committed() -> tuple[int, str | None]:
        found = committed_offsets(topics.kafka, group, topics.documents, [0]).get(0)
        return (found.offset, found.metadata) if found else (-1001, None)

    for offset, kept in ((1, False), (2, True)):
        producer.begin_transaction()
        send(producer, topics.embeddings, f"up to {offset}")
        position = TopicPartition(topics.documents, 0, offset, f"fingerprint-{offset}")
        producer.send_offsets_to_transaction([position], consumer.consumer_group_metadata(), 30.0)
        if kept:
            producer.commit_transaction(30.0)
        else:
            producer.abort_transaction(30.0)
            assert committed()[0] < 0
    consumer.close()
    assert wait_until(lambda: committed() if committed()[0] >= 0 else None) == (2, "fingerprint-2")
    assert values(read_all(topics.bootstrap, topics.embeddings)) == ["up to 2"]


def test_a_producer_is_fenced_by_a_later_one_with_its_transactional_id(topics: Topics) -> None:
    older = transactional(topics, "same")
    older.begin_transaction()
    send(older, topics.embeddings, "from the ghost")
    older.flush(30.0)
    newer = transactional(topics, "same")
    with pytest.raises(Exception, match=r"_FENCED|fenced"):
        older.commit_transaction(30.0)
    newer.begin_transaction()
    send(newer, topics.embeddings, "from the heir")
    newer.commit_transaction(30.0)
    assert values(read_all(topics.bootstrap, topics.embeddings)) == ["from the heir"]


def test_records_keep_key_headers_partition_and_order(topics: Topics) -> None:
    producer = make_producer(topics.kafka)
    for number in range(20):
        producer.produce(
            topics.documents,
            None if number == 7 else b"x" * 100_000,
            key=f"key-{number}",
            partition=number % 3,
            headers=[("number", str(number).encode())],
        )
    assert producer.flush(30.0) == 0
    for partition in range(3):
        records = [r for r in read_all(topics.bootstrap, topics.documents) if r.partition() == partition]
        numbers = list(range(partition, 20, 3))
        assert [record.key() for record in records] == [f"key-{number}".encode() for number in numbers]
        assert [record.headers() for record in records] == [[("number", b"%d" % n)] for n in numbers]
        assert [record.offset() for record in records] == list(range(len(numbers)))
        assert [record.value() is None for record in records] == [number == 7 for number in numbers]


def test_a_free_port_is_given_once_and_a_server_may_listen_there() -> None:
    ports = free_ports(6)
    assert len(set(ports)) == 6
    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        # As another process looks for its own.
        another.bind(("127.0.0.1", ports[0]))
    for _ in range(2):
        with socket.create_server(("127.0.0.1", ports[0])), socket.create_connection(("127.0.0.1", ports[0])):
            pass
