"""Topics that are made again, or given partitions, under a daemon or while none runs."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]

from consumer.admission import admit
from consumer.topics import Topics as LookedUp
from embedstream.kafka import make_admin
from embedstream.offsets import end_offsets
from embedstream.settings import ConsumerSettings, Settings
from tests.brokers import BrokerHandle
from tests.consuming import committed, documents, outcome, send
from tests.daemons import Daemons, verified
from tests.kafka import Topics, make_topics, read_all, wait_until

SOON = {"EMBEDSTREAM_KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS": "500"}


def make_again(topics: Topics, name: str, partitions: int = 3) -> None:
    admin = make_admin(topics.kafka)
    admin.delete_topics([name])[name].result()

    def made() -> bool:
        try:
            admin.create_topics([NewTopic(name, partitions, 1)])[name].result()
        except KafkaException:
            return False
        return True

    wait_until(made, 30, "the topic is not made again")


def add_partitions(topics: Topics, count: int, *names: str) -> None:
    admin = make_admin(topics.kafka)
    for name in names:
        admin.create_partitions([NewPartitions(name, count)])[name].result()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_documents_made_again_under_a_daemon_end_it_and_nothing_is_committed(
    kafka_broker: BrokerHandle, daemons: Daemons, protocol: str
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(200))
    env = {"EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol} | SOON
    daemon = daemons.start(topics, "--window-bytes", "4000", env=env, seconds=0.3)
    # Right after a window, so that the next one is not half delivered.
    wait_until(lambda: len(daemon.events("window_delivered")) >= 3, 60, "the daemon delivers nothing")
    daemon.process.send_signal(signal.SIGSTOP)
    make_again(topics, topics.documents)
    # More than the daemon has read: its offsets lie inside the new topic.
    send(topics, documents(600, first=1000))
    daemon.process.send_signal(signal.SIGCONT)
    # It may hear of the time between: an answer that had reached it before it was frozen.
    assert f"{topics.documents!r} was deleted" in daemon.refused()
    assert committed(topics) == {}
    # The broker has forgotten the old topic's offsets; taking them from the output would skip new records.
    assert "made again" in daemons.start(topics, "--recover-offsets").refused()


def test_an_end_that_a_broker_tells_which_has_just_come_back_is_looked_at_again(
    topics: Topics, daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believes for a moment that it leads what it led, and knows no record since."""
    send(topics, documents(20))
    assert daemons.start(topics, "--until-drained").process.wait(60) == 0
    looks: list[str] = []

    def late(admin: AdminClient, topic: str, *asked: Any) -> dict[int, int]:
        found = end_offsets(admin, topic, *asked)
        if topic != topics.documents:
            return found
        looks.append(topic)
        return dict.fromkeys(found, 1) if len(looks) == 1 else found

    monkeypatch.setattr("consumer.admission.end_offsets", late)
    settings = Settings(kafka=topics.kafka, consumer=ConsumerSettings(group=topics.documents))
    admin = make_admin(topics.kafka)
    assert admit(admin, settings, LookedUp(admin, topics.kafka), "hash") == {}
    assert len(looks) == 2


@pytest.mark.slow
def test_embeddings_made_again_under_a_daemon_end_it_and_the_next_one(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(100))
    daemon = daemons.start(topics, "--window-bytes", "4000", seconds=0.3)
    wait_until(lambda: len(daemon.events("window_delivered")) >= 2, 60, "the daemon delivers nothing")
    make_again(topics, topics.embeddings)
    before = committed(topics)
    line = daemon.refused()
    assert topics.embeddings in line
    assert "was deleted and made again" in line
    assert committed(topics) == before
    assert not read_all(topics.bootstrap, topics.embeddings)
    line = daemons.start(topics).refused()
    assert "is new and empty" in line
    assert "--group" in line


@pytest.mark.slow
def test_documents_made_again_while_no_daemon_ran_are_refused(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, [*documents(8), b"no Avro"])
    assert daemons.start(topics, "--until-drained").wait() == 0
    make_again(topics, topics.documents)
    send(topics, documents(2, first=100))
    assert "has no record" in daemons.start(topics, "--recover-offsets").refused()
    send(topics, documents(30, first=200))
    line = daemons.start(topics, "--recover-offsets").refused()
    assert "is not the one that there is output of" in line
    assert "--embeddings-topic" in line


@pytest.mark.slow
def test_partitions_that_are_added_are_read_where_the_output_has_room_for_them(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(30))
    daemon = daemons.start(topics, env=SOON)
    wait_until(lambda: sum(committed(topics).values()) == 30, 60, "the daemon commits")
    add_partitions(topics, 5, topics.embeddings, topics.dead_letters, topics.documents)
    send(topics, documents(50, first=100), partitions=5)
    wait_until(lambda: sum(committed(topics, 5).values()) == 80, 60, "the new partitions are not read")
    found = outcome(topics, 5)
    assert found.is_exactly_once, found
    assert found.inputs == 80
    assert {each.partition() for each in read_all(topics.bootstrap, topics.embeddings)} == set(range(5))
    add_partitions(topics, 6, topics.documents)
    send(topics, documents(60, first=200), partitions=6)
    line = daemon.refused()
    assert f"{topics.documents!r} has 6 partitions" in line
    assert f"--alter --topic {topics.embeddings} --partitions 6" in line
    assert f"--alter --topic {topics.dead_letters} --partitions 6" in line
    assert committed(topics, 6).get(5, 0) == 0
    add_partitions(topics, 6, topics.embeddings, topics.dead_letters)
    assert daemons.start(topics, "--until-drained").wait() == 0
    found = outcome(topics, 6)
    assert found.is_exactly_once, found
    assert found.inputs == 140
    assert verified(topics)


@pytest.mark.slow
def test_partitions_added_to_embeddings_that_were_shared_are_refused(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    few = make_topics(kafka_broker.bootstrap, partitions=2)
    many = make_topics(kafka_broker.bootstrap, partitions=3)
    topics = Topics(few.bootstrap, many.documents, few.embeddings, many.dead_letters)
    send(topics, documents(9))
    daemon = daemons.start(topics)
    wait_until(lambda: sum(committed(topics).values()) == 9, 60, "the daemon commits")
    add_partitions(topics, 3, topics.embeddings)
    send(topics, documents(9, first=100))
    assert "has 3 partitions and had 2" in daemon.refused()
    assert sum(committed(topics).values()) == 9
