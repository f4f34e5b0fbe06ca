"""Brokers that forget offsets, stop in the middle of a commit, give no transactions, or take little."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from embedstream.kafka import make_admin, make_producer
from tests.brokers import ApacheCluster
from tests.consuming import committed, documents, outcome, send
from tests.daemons import Daemons, verified
from tests.kafka import Topics, make_topics, read_all, wait_until

pytestmark = pytest.mark.slow

FORGETFUL = {
    "offsets.retention.minutes": "1",
    "offsets.retention.check.interval.ms": "1000",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
# A topic with more copies than there are brokers is never made.
WITHOUT_TRANSACTIONS = {"transaction.state.log.replication.factor": "3"}
TRANSACTION_SECONDS = 2.0
LETTER_BYTES = 20_000
MIB = 1024 * 1024
SOON = {"EMBEDSTREAM_CONSUMER__TRANSACTION_TIMEOUT_SECONDS": f"{TRANSACTION_SECONDS:g}"}


@pytest.fixture(scope="module")
def forgetful(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheCluster]:
    """A broker that forgets the offsets of an empty group after a minute; its ACLs count."""
    with ApacheCluster(kafka_home, tmp_path_factory.mktemp("forgetful"), settings=FORGETFUL) as cluster:
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def left_behind(forgetful: ApacheCluster, tmp_path_factory: pytest.TempPathFactory) -> Topics:
    """Topics that were drained, by a group that has been empty since: the other tests pass the minute."""
    topics = make_topics(forgetful.bootstrap)
    send(topics, documents(30))
    with Daemons(tmp_path_factory.mktemp("left-behind")) as daemons:
        assert daemons.start(topics, "--until-drained").wait() == 0
    assert sum(committed(topics).values()) == 30
    return topics


def test_a_window_whose_commit_outlasts_its_transaction_is_delivered_once(
    kafka_home: Path, tmp_path: Path, daemons: Daemons
) -> None:
    settings = {
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        # Frozen for longer than its session, a lone broker fences itself: on a busy machine the transaction
        # was then never ended.
        "broker.session.timeout.ms": "60000",
    }
    with ApacheCluster(kafka_home, tmp_path / "broker", settings=settings) as cluster:
        (node,) = cluster.nodes
        topics = make_topics(cluster.bootstrap)
        send(topics, documents(90))
        control = tmp_path / "control"
        control.mkdir()
        (control / "after_send_offsets").write_text("wait")
        faults = {"FAULTS": json.dumps({"control": str(control)})}
        flags = ("--window-bytes", "8000", "--until-drained")
        daemon = daemons.start(topics, *flags, env=faults | SOON, module="tests.faults.daemon")
        wait_until(lambda: (control / "hits").exists(), 60, "no commit comes")
        node.pause()
        (control / "release").touch()
        wait_until(lambda: daemon.events("producer_replaced"), 60, "the commit does not time out")
        node.resume()
        assert daemon.wait(90) == 0, daemon.log
        (replaced,) = daemon.events("producer_replaced")
        assert "_TIMED_OUT" in replaced["why"]
        found = outcome(topics)
        assert found.is_exactly_once, found
        assert found.inputs == 90
        assert verified(topics)


def test_a_broker_without_transactions_is_told_at_the_start_and_at_least_once_goes_on(
    kafka_home: Path, tmp_path: Path, daemons: Daemons
) -> None:
    with ApacheCluster(kafka_home, tmp_path / "broker", settings=WITHOUT_TRANSACTIONS) as cluster:
        topics = make_topics(cluster.bootstrap)
        send(topics, documents(30))
        daemon = daemons.start(topics, env=SOON)
        assert daemon.wait(60) == 69
        assert "transaction.state.log.replication.factor" in daemon.only_line
        assert "--delivery at-least-once" in daemon.only_line
        assert len(daemon.events("waiting_for_transactions")) == 1
        assert committed(topics) == {}
        assert daemons.start(topics, "--delivery", "at-least-once", "--until-drained").wait() == 0
        found = outcome(topics)
        assert found.is_exactly_once, found
        assert found.inputs == 30


def test_transactions_that_are_not_allowed_are_told_at_the_start(
    forgetful: ApacheCluster, daemons: Daemons
) -> None:
    topics = make_topics(forgetful.bootstrap)
    send(topics, documents(3))
    name = f"embedstream-{topics.documents}-denied"
    admin = make_admin(topics.kafka)
    denied = AclBinding(
        ResourceType.TRANSACTIONAL_ID,
        name,
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        AclOperation.WRITE,
        AclPermissionType.DENY,
    )
    for future in admin.create_acls([denied]).values():
        future.result()
    line = daemons.start(topics, "--instance-id", "denied").refused()
    assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in line
    assert repr(name) in line
    assert "--delivery at-least-once" in line
    flags = ("--instance-id", "denied", "--delivery", "at-least-once", "--until-drained")
    assert daemons.start(topics, *flags).wait() == 0
    assert outcome(topics).is_exactly_once


def limit_messages(topics: Topics, topic: str, most: int) -> None:
    limit = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])
    admin = make_admin(topics.kafka)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


@pytest.mark.parametrize(
    ("delivery", "size", "own_limit"),
    [("exactly-once", 9 * MIB, None), ("at-least-once", 9 * MIB, None), ("exactly-once", 5 * MIB, 2 * MIB)],
)
def test_a_dead_letter_larger_than_our_own_client_takes_does_not_hold_up_the_daemon(
    forgetful: ApacheCluster, daemons: Daemons, delivery: str, size: int, own_limit: int | None
) -> None:
    topics = make_topics(forgetful.bootstrap)
    for topic in (topics.documents, topics.dead_letters):
        limit_messages(topics, topic, 16 * MIB)
    producer = make_producer(topics.kafka, message_max_bytes=16 * MIB)
    producer.produce(topics.documents, random.Random(1).randbytes(size), b"key", partition=0)
    assert producer.flush(60) == 0
    send(topics, documents(9))
    env = {} if own_limit is None else {"EMBEDSTREAM_KAFKA__CLIENT__MESSAGE_MAX_BYTES": str(own_limit)}
    daemon = daemons.start(topics, "--until-drained", "--delivery", delivery, env=env)
    if own_limit is not None:
        line = daemon.refused()
        assert "MSG_SIZE_TOO_LARGE" in line
        assert "[kafka.client]" in line
        assert committed(topics).get(0, 0) == 0
        return
    assert daemon.wait() == 0
    (letter,) = read_all(topics.bootstrap, topics.dead_letters)
    assert dict(letter.headers() or [])["value.omitted.bytes"] == str(size).encode()
    assert outcome(topics).is_exactly_once


def test_a_dead_letter_larger_than_its_topic_takes_goes_there_without_its_value(
    forgetful: ApacheCluster, daemons: Daemons
) -> None:
    topics = make_topics(forgetful.bootstrap)
    limit_messages(topics, topics.dead_letters, LETTER_BYTES)
    # Random, or compression makes them small: of each partition's four, two fit, but not into one batch.
    noise = random.Random(1)
    large = [noise.randbytes(size) for size in (LETTER_BYTES, 15_000, 900_000, 14_000) for _ in range(3)]
    send(topics, large)
    assert daemons.start(topics, "--until-drained").wait() == 0
    letters = {
        (each.partition(), each.offset()): each for each in read_all(topics.bootstrap, topics.dead_letters)
    }
    assert len(letters) == 12
    for letter in letters.values():
        headers = dict(letter.headers() or [])
        original = large[(letter.partition() or 0) + 3 * int(headers["source.offset"] or -1)]
        if len(original) < LETTER_BYTES:
            assert letter.value() == original
            assert "value.omitted.bytes" not in headers
        else:
            assert letter.value() is None
            assert headers["value.omitted.bytes"] == str(len(original)).encode()
        assert headers["error.class"] == b"not_avro"
    # Nothing but dead letters so far, and the embeddings are empty: it goes on all the same.
    send(topics, documents(6))
    assert daemons.start(topics, "--until-drained").wait() == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters) == (18, 12)
    assert verified(topics)


def test_offsets_that_the_broker_has_forgotten_are_refused_and_recovered(
    left_behind: Topics, daemons: Daemons
) -> None:
    topics = left_behind
    count = len(read_all(topics.bootstrap, topics.embeddings))
    wait_until(lambda: not committed(topics), 120, "the broker does not forget")
    send(topics, documents(9, first=100))
    line = daemons.start(topics).refused()
    assert "has no committed offset for partition 0, 1, 2" in line
    assert "--recover-offsets" in line
    assert len(read_all(topics.bootstrap, topics.embeddings)) == count
    assert daemons.start(topics, "--recover-offsets", "--until-drained").wait() == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == 39
    assert verified(topics)
