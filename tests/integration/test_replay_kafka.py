"""A replay on Apache Kafka, beside live daemons that go on, with deaths among its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import TopicPartition

from embedstream.aliases import resolve_alias
from embedstream.kafka import make_admin, make_consumer
from embedstream.offsets import end_offsets
from embedstream.replay_names import group_of
from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import committed, documents, outcome, send
from tests.daemons import Daemon, Daemons, verified
from tests.kafka import Topics, make_topics, wait_until
from tests.replays import (
    SECOND,
    alias_of,
    embeddings_of,
    offsets_of,
    outcome_of_replay,
    output_of,
    replay_verified,
    replayed,
)

PARTITIONS = 4
# Small windows, and a death that the group notices soon.
QUICK = {
    "EMBEDSTREAM_CONSUMER__WINDOW_BYTES": "8000",
    "EMBEDSTREAM_CONSUMER__SESSION_TIMEOUT_SECONDS": "6",
    "EMBEDSTREAM_CONSUMER__TRANSACTION_TIMEOUT_SECONDS": "10",
}


@contextmanager
def fed(topics: Topics, first: int) -> Iterator[None]:
    """Documents go on coming, 20 at a time."""
    ended = threading.Event()

    def feed() -> None:
        number = first
        while not ended.wait(0.5):
            send(topics, documents(20, first=number), PARTITIONS)
            number += 20

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def assigned(daemon: Daemon) -> bool:
    return any(each["partitions"] for each in daemon.events("partitions_assigned"))


def cutover(topics: Topics, *flags_of_its_own: str) -> tuple[int, str]:
    flags = (*topics.flags, "--group", topics.documents, "--alias", alias_of(topics))
    done = run_cli("cutover", *flags, "--to", output_of(topics), *flags_of_its_own)
    print(done.stdout, done.stderr)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def all_of(topics: Topics) -> int:
    admin = make_admin(topics.kafka)
    return sum(end_offsets(admin, topics.documents, range(PARTITIONS)).values())


@pytest.mark.slow
def test_live_consumption_goes_on_while_a_replay_loses_a_daemon_and_takes_over(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap, PARTITIONS)
    send(topics, documents(2000), PARTITIONS)
    live = daemons.start(topics, "--instance-id", "live")
    wait_until(lambda: sum(committed(topics, PARTITIONS).values()) == 2000, 60, "the live daemon is done")
    moves = len(live.events("partitions_assigned"))
    with fed(topics, 2000):
        first, second = (
            daemons.replay(topics, output_of(topics), "--instance-id", name, env=QUICK, seconds=0.2, **SECOND)
            for name in ("first", "second")
        )
        wait_until(lambda: assigned(first) and assigned(second), 60, "both have partitions")
        least = sum(offsets_of(topics, PARTITIONS).values())
        wait_until(lambda: sum(offsets_of(topics, PARTITIONS).values()) > least + 50, 60, "both commit")
        # Half-way: refused, with the number that is missing.
        before = sum(offsets_of(topics, PARTITIONS).values())
        at_least = sum(committed(topics, PARTITIONS).values())
        code, line = cutover(topics)
        after = sum(offsets_of(topics, PARTITIONS).values())
        at_most = sum(committed(topics, PARTITIONS).values())
        assert after < at_least, "the replay was too quick to show anything"
        assert code == 1, line
        found = re.search(r"([\d,]+) records are missing in", line)
        assert found, line
        missing = int(found[1].replace(",", ""))
        assert at_least - after <= missing <= at_most - before
        first.process.kill()
        assert first.wait() != 0
        killed_at = sum(committed(topics, PARTITIONS).values())
        wait_until(
            lambda: sum(committed(topics, PARTITIONS).values()) > killed_at, 30, "the live one goes on"
        )
    wait_until(lambda: sum(committed(topics, PARTITIONS).values()) == all_of(topics), 60, "all is live")
    wait_until(
        lambda: sum(offsets_of(topics, PARTITIONS).values()) == all_of(topics), 180, "the replay is done"
    )
    assert len(live.events("partitions_assigned")) == moves, "the live group was disturbed"
    assert live.process.poll() is None
    assert verified(topics)
    assert replay_verified(topics)
    for found_outcome in (outcome(topics, PARTITIONS), outcome_of_replay(topics, PARTITIONS)):
        assert found_outcome.is_exactly_once, found_outcome
        assert found_outcome.inputs == all_of(topics)
    assert {each["dim"] for each in embeddings_of(topics)} == {8}
    assert {each["dim"] for each in embeddings_of(replayed(topics))} == {12}
    code, line = cutover(topics)
    assert code == 0, line
    alias = resolve_alias(topics.kafka, alias_of(topics))
    assert (alias.topic, alias.dim, alias.offsets) == (
        output_of(topics),
        12,
        offsets_of(topics, PARTITIONS),
    )
    # The replay's daemons are the live ones now.
    send(topics, documents(8, first=10_000), PARTITIONS)
    wait_until(lambda: sum(offsets_of(topics, PARTITIONS).values()) == all_of(topics), 60, "it goes on")
    assert second.process.poll() is None


@pytest.mark.slow
def test_a_group_of_the_same_name_that_is_no_replay_is_refused(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    group = group_of(output_of(topics))
    stranger = make_consumer(topics.kafka, group_id=group)
    try:
        stranger.subscribe([topics.dead_letters])
        wait_until(lambda: stranger.poll(0.1) is None and stranger.assignment(), 60, "it is in the group")
        refused = daemons.replay(topics, output_of(topics), **SECOND)
        wait_until(lambda: stranger.poll(0.1) is None and refused.process.poll() is not None, 60)
        assert refused.wait() == 78, refused.log
        assert "has members and has committed no offsets" in refused.last_line
        assert offsets_of(topics) == {}
    finally:
        stranger.close()
    # Daemons of another model, that were started by hand.
    send(topics, documents(3))
    assert daemons.start(topics, "--group", group, "--until-drained").wait() == 0
    refused = daemons.replay(topics, output_of(topics), **SECOND)
    assert refused.wait() == 78, refused.log
    assert "belongs to a model with fingerprint hash" in refused.last_line
    assert "name another --output" in refused.last_line


@pytest.mark.slow
def test_what_the_documents_have_dropped_before_the_replay_began_is_missing_in_it(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(9))
    assert daemons.start(topics, "--until-drained").wait() == 0
    admin = make_admin(topics.kafka)

    def drop(*before: int) -> None:
        offsets = [TopicPartition(topics.documents, *each) for each in enumerate(before)]
        for future in admin.delete_records(offsets).values():
            future.result()

    drop(2, 3)
    assert daemons.replay(topics, output_of(topics), "--until-drained", **SECOND).wait() == 0
    code, line = cutover(topics)
    assert code == 1, line
    assert "5 records with output in" in line
    assert "--accept-lost 5 does without them" in line
    # What is dropped once the replay has read it is in both.
    drop(3, 3, 3)
    _, line = cutover(topics)
    assert "5 records with output in" in line
    code, _ = cutover(topics, "--accept-lost", "5")
    assert code == 0
