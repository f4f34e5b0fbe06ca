"""The look at the end of output topics that a daemon takes before it starts, over many partitions at once."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Consumer, IsolationLevel

from consumer.tail import FIRST_LOOK_RECORDS, newest_written, records_at
from embedstream.kafka import make_admin, make_consumer, make_producer
from embedstream.offsets import end_offsets, start_offsets
from schemas.deletion import passed_on_headers
from schemas.records import SourcePosition
from tests.kafka import Topics

PARTITIONS = range(3)
# More than the first look holds.
MANY = 3 * FIRST_LOOK_RECORDS


def write(topics: Topics, sources: list[tuple[int, int]], *, ended: bool = True) -> None:
    """One transaction with the deletion of each record at (partition, offset)."""
    producer = make_producer(topics.kafka, transactional_id=uuid.uuid4().hex)
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition, offset in sources:
        source = SourcePosition(topic=topics.documents, partition=partition, offset=offset)
        headers = list(passed_on_headers(1, source))
        producer.produce(
            topics.embeddings,
            None,
            b"key",
            partition=partition % len(PARTITIONS),
            headers=headers,  # type: ignore[arg-type]
        )
    assert producer.flush(30) == 0
    if ended:
        producer.commit_transaction(30)


@pytest.fixture
def reader(topics: Topics) -> Consumer:
    """As a daemon's look makes it."""
    return make_consumer(topics.kafka, group_id="reader", fetch_wait_max_ms=10)


def newest(topics: Topics, reader: Consumer, inputs: set[int]) -> set[tuple[int, int]]:
    admin = make_admin(topics.kafka)
    starts = start_offsets(admin, topics.embeddings, PARTITIONS)
    ends = end_offsets(admin, topics.embeddings, PARTITIONS, IsolationLevel.READ_COMMITTED)
    bounds = {each: (starts[each], ends[each]) for each in PARTITIONS}
    written = newest_written(reader, topics.embeddings, bounds, topics.documents, inputs)
    return {(each.source.partition, each.source.offset) for each in written}


def test_the_newest_of_each_partition_is_found_where_others_are_empty(
    topics: Topics, reader: Consumer
) -> None:
    write(topics, [(0, offset) for offset in range(MANY)] + [(2, 7)])
    assert newest(topics, reader, set()) == {(0, MANY - 1), (2, 7)}


def test_the_newest_of_an_input_partition_is_found_far_behind_that_of_another(
    topics: Topics, reader: Consumer
) -> None:
    write(topics, [(3, 5), (4, 6), *((0, offset) for offset in range(MANY)), (1, 9)])
    assert newest(topics, reader, {3}) == {(3, 5), (0, MANY - 1), (1, 9)}
    # Of input partition 5 there is none: the whole of its output partition is read.
    assert newest(topics, reader, {3, 4, 5}) == {(3, 5), (4, 6), (0, MANY - 1), (1, 9)}


def test_what_an_open_transaction_holds_is_not_waited_for(topics: Topics, reader: Consumer) -> None:
    write(topics, [(0, 5), (1, 6)])
    write(topics, [(0, offset) for offset in range(10, 10 + MANY)], ended=False)
    assert newest(topics, reader, set()) == {(0, 5), (1, 6)}


def test_records_are_read_at_their_offsets(topics: Topics, reader: Consumer) -> None:
    producer = make_producer(topics.kafka)
    for number in range(30):
        producer.produce(topics.documents, str(number), partition=number % len(PARTITIONS))
    assert producer.flush(30) == 0
    found = records_at(reader, topics.documents, {0: 9, 1: 0, 2: 4})
    assert {partition: each.value() for partition, each in found.items()} == {0: b"27", 1: b"1", 2: b"14"}
    assert records_at(reader, topics.documents, {}) == {}
