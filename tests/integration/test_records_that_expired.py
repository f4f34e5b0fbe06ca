"""Records that the documents topic drops before they were read: never skipped in silence."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

import pytest
from confluent_kafka import TopicPartition

from embedstream.kafka import make_admin
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli
from tests.consuming import committed, documents, send
from tests.daemons import Daemon, Daemons, verified
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import decode

pytestmark = pytest.mark.slow


def drop(topics: Topics, *before: int) -> None:
    """Deletes what lies before these offsets, in partition 0, 1, ..."""
    offsets = [TopicPartition(topics.documents, *each) for each in enumerate(before)]
    admin = make_admin(topics.kafka)
    for future in admin.delete_records(offsets).values():
        future.result()


def embedded(topics: Topics) -> set[tuple[int, int]]:
    """The input records that have output; none of them twice."""
    records = [
        decode("embedding", each.value() or b"") for each in read_all(topics.bootstrap, topics.embeddings)
    ]
    first = [each["source"] for each in records if each["passage"]["index"] == 0]
    positions = {(each["partition"], each["offset"]) for each in first}
    assert len(positions) == len(first)
    return positions


def skipped(*daemons: Daemon) -> set[tuple[int, int]]:
    """The input records that the daemons said they left out."""
    events = [event for each in daemons for event in each.events("records_skipped")]
    return {(event["partition"], n) for event in events for n in range(event["offset"], event["to"])}


def all_of(*ends: int) -> set[tuple[int, int]]:
    return {(partition, offset) for partition, end in enumerate(ends) for offset in range(end)}


def verify_json(topics: Topics) -> subprocess.CompletedProcess[str]:
    return run_cli("verify", *topics.flags, "--group", topics.documents, "--json")


def test_records_that_expired_before_the_start_are_refused_or_skipped_and_counted(
    kafka_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(9))
    assert daemons.start(topics, "--until-drained").wait() == 0
    send(topics, documents(30, first=100))
    # Of partition 0 some are left, of 1 none, and of 2 all that were not read yet.
    drop(topics, 8, 13, 2)
    line = daemons.start(topics).refused()
    assert "up to 5 records were deleted unread" in line
    assert "--expired-offsets skip" in line
    done = verify_json(topics)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["missing"], report["unread"], report["double"]) == (15, 15, 0)
    (port,) = free_ports(1)
    daemon = daemons.start(topics, "--expired-offsets", "skip", "--metrics-port", str(port))
    wait_until(lambda: sum(committed(topics).values()) == 39, 60, "the daemon does not go on")
    assert skipped(daemon) == {(0, n) for n in range(3, 8)} | {(1, n) for n in range(3, 13)}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    assert 'embedstream_expired_records_total{partition="0"} 5.0' in metrics
    assert 'embedstream_expired_records_total{partition="1"} 10.0' in metrics
    assert embedded(topics) == all_of(13, 13, 13) - skipped(daemon)
    done = verify_json(topics)
    assert done.returncode == 0
    assert json.loads(done.stdout)["unread"] == 15


@pytest.mark.parametrize(
    ("protocol", "choice"), [("classic", "skip"), ("consumer", "skip"), ("classic", "stop")]
)
def test_records_that_expire_during_a_run_are_told(
    kafka_broker: BrokerHandle, daemons: Daemons, protocol: str, choice: str
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, documents(9))
    env = {"EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol}
    daemon = daemons.start(topics, "--expired-offsets", choice, env=env)
    wait_until(lambda: sum(committed(topics).values()) == 9, 60, "the daemon commits")
    daemon.process.send_signal(signal.SIGSTOP)
    send(topics, documents(300, words=300, first=100))
    drop(topics, 90, 103, 0)
    daemon.process.send_signal(signal.SIGCONT)
    if choice == "stop":
        assert "records were deleted unread" in daemon.refused()
        assert committed(topics)[0] < 90
        return
    wait_until(lambda: sum(committed(topics).values()) == 309, 60, "the daemon does not go on")
    # What the broker had sent before it was dropped may have been read.
    assert skipped(daemon)
    assert not embedded(topics) & skipped(daemon)
    assert embedded(topics) | skipped(daemon) == all_of(103, 103, 103)
    assert verified(topics)
    daemon.process.terminate()
    assert daemon.wait() == 0
