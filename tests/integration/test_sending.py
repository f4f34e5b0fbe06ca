from __future__ import annotations

import uuid

import pytest
from confluent_kafka import KafkaException, Producer

from consumer.outbound import ItemRecords, OutboundRecord
from consumer.sending import Sending, refusal
from embedstream.kafka import make_admin, make_producer
from tests.brokers import BrokerHandle
from tests.kafka import Topics, read_all
from tests.unit.consumer.items import an_end

SOME = (("name", b"value"),)


def a_producer(topics: Topics, **properties: object) -> Producer:
    producer = make_producer(topics.kafka, transactional_id=uuid.uuid4().hex, **properties)
    producer.init_transactions(30)
    producer.begin_transaction()
    return producer


def items(topic: str, values: list[bytes], headed: range = range(0)) -> list[ItemRecords]:
    """Records of partitions 0 and 1 in turn; those with headers can't be part of a batch."""
    return [
        ItemRecords(an_end(), (OutboundRecord(topic, n % 2, b"key", value, SOME if n in headed else ()),))
        for n, value in enumerate(values)
    ]


def values_of(topics: Topics, partition: int) -> list[bytes | None]:
    messages = read_all(topics.bootstrap, topics.embeddings)
    return [each.value() for each in messages if each.partition() == partition]


def test_records_with_and_without_headers_keep_their_order(topics: Topics) -> None:
    values = [str(n).encode() for n in range(50)]
    producer = a_producer(topics)
    Sending(producer, reports=False).send(items(topics.embeddings, values, headed=range(0, 50, 7)))
    producer.commit_transaction(30)
    assert values_of(topics, 0) == values[::2]
    assert values_of(topics, 1) == values[1::2]


@pytest.mark.slow
def test_more_records_than_the_client_holds_at_once_all_arrive_in_order(topics: Topics) -> None:
    values = [str(n).encode() for n in range(20_000)]
    producer = a_producer(topics, queue_buffering_max_messages=700)
    sending = Sending(producer, reports=False)
    sending.send(items(topics.embeddings, values))
    assert sending.failed is None
    producer.commit_transaction(30)
    assert values_of(topics, 0) == values[::2]
    assert values_of(topics, 1) == values[1::2]


def test_a_record_that_the_client_refuses_is_told(topics: Topics) -> None:
    sending = Sending(a_producer(topics, message_max_bytes=2000), reports=False)
    sending.send(items(topics.embeddings, [b"small", b"x" * 5000]))
    assert sending.failed is not None
    assert refusal(sending.failed)


@pytest.mark.slow
def test_a_record_that_its_topic_refuses_fails_the_commit(kafka_broker: BrokerHandle) -> None:
    from tests.integration.test_topics import make

    topic = f"small-{uuid.uuid4().hex[:8]}"
    topics = Topics(kafka_broker.bootstrap, "unused", topic, "unused")
    make(make_admin(topics.kafka), topic, 2, max_message_bytes="2000")
    producer = a_producer(topics, compression_type="none")
    sending = Sending(producer, reports=False)
    sending.send(items(topic, [b"small", b"x" * 5000]))
    assert sending.failed is None
    with pytest.raises(KafkaException) as told:
        producer.commit_transaction(30)
    assert told.value.args[0].txn_requires_abort()
    assert refusal(told.value.args[0])


def test_with_a_report_of_each_record_all_arrive(topics: Topics) -> None:
    sending = Sending(make_producer(topics.kafka), reports=True)
    sending.send(items(topics.embeddings, [b"one", b"two"]))
    assert sending.failed is None
    assert values_of(topics, 0) == [b"one"]
