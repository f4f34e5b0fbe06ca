"""`/healthz` and `/readyz` of running daemons."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import ApacheCluster, BrokerHandle, free_ports, on_apache
from tests.consuming import committed, documents, send
from tests.kafka import Topics, make_topics, wait_until
from tests.unit.consumer.items import a_value

Start = Callable[..., subprocess.Popen[bytes]]
# A word that is one token; the encoder hangs on it.
HANGING = "arsenic"
# The shortest that a broker takes, and a poll interval may not be shorter.
SHORT = {
    "EMBEDSTREAM_CONSUMER__MAX_POLL_INTERVAL_SECONDS": "6",
    "EMBEDSTREAM_CONSUMER__SESSION_TIMEOUT_SECONDS": "6",
}
CLOCKS = {"polling", "progressing", "in_group"}


class Health:
    """Asks one daemon over HTTP."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)

    @property
    def flags(self) -> tuple[str, str]:
        return ("--metrics-port", str(self.port))

    def get(self, path: str) -> tuple[int, Any]:
        """Status and document; (0, None) while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def wait_ready(self, timeout: float = 60.0) -> None:
        wait_until(self.is_ready, timeout, "the daemon is not ready")

    def failed(self) -> list[str]:
        """The clocks that are overdue."""
        status, document = self.get("/healthz")
        assert status == (503 if document["failed"] else 200)
        assert set(document["clocks"]) == CLOCKS
        found = document["failed"]
        assert isinstance(found, list)
        return found


@on_apache
def test_a_daemon_is_alive_while_it_loads_ready_when_it_may_work_and_neither_is_lost_by_idling(
    topics: Topics, hash_daemon: Start
) -> None:
    health = Health()
    daemon = hash_daemon(*health.flags, load_seconds=1.5)
    wait_until(lambda: health.get("/healthz")[0], 60, "nothing listens")
    status, document = health.get("/readyz")
    assert (status, document["state"]) == (503, "starting")
    assert health.failed() == []
    health.wait_ready()
    send(topics, documents(30))
    wait_until(lambda: sum(committed(topics).values()) == 30, 60, "everything is committed")
    assert health.failed() == []
    assert health.is_ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{health.port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    for clock in CLOCKS:
        assert f'embedstream_clock_age_seconds{{clock="{clock}"}}' in metrics
    daemon.terminate()
    assert daemon.wait(30) == 0


@pytest.mark.slow
def test_a_stuck_encoder_is_told_from_a_slow_one(kafka_broker: BrokerHandle, hash_daemon_on: Start) -> None:
    topics, health = make_topics(kafka_broker.bootstrap), Health()
    # Work may stand still for 6 + 3 seconds.
    bounds = SHORT | {
        "EMBEDSTREAM_CONSUMER__TRANSACTION_TIMEOUT_SECONDS": "3",
        "EMBEDSTREAM_CONSUMER__STOP_SECONDS": "4",
    }
    slow: dict[str, object] = {"seconds": 0.5, "token_budget": 128, "bad_words": {HANGING: "hang"}}
    daemon = hash_daemon_on(topics, *health.flags, "--window-seconds", "60", env=bounds, **slow)
    health.wait_ready()
    # When the rate is known, a window of some 35 batches, which takes twice as long as the bound.
    send(topics, documents(5))
    wait_until(lambda: sum(committed(topics).values()) == 5, 60, "the first are committed")
    send(topics, documents(25))
    seen: list[list[str]] = []

    def is_done() -> bool:
        seen.append(health.failed())
        return sum(committed(topics).values()) == 30

    wait_until(is_done, 60, "everything is committed")
    assert not any(seen), "a slow window was taken for a stuck one"
    send(topics, [a_value(HANGING)])
    wait_until(lambda: health.failed() == ["progressing"], 30, "a stuck encoder is healthy")
    assert health.is_ready(), "the group still has it"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_without_partitions_is_ready(
    kafka_broker: BrokerHandle, hash_daemon_on: Start, protocol: str
) -> None:
    topics = make_topics(kafka_broker.bootstrap, partitions=1)
    env = {"EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol}
    for number in range(2):
        health = Health()
        hash_daemon_on(topics, *health.flags, "--instance-id", f"daemon-{number}", env=env)
        health.wait_ready()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_daemon_that_has_been_out_of_the_group_for_too_long_is_not_well_until_it_is_back(
    kafka_home: Path, tmp_path: Path, hash_daemon_on: Start, protocol: str
) -> None:
    health = Health()
    env = SHORT | {"EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol}
    settings = {
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "1000",
    }
    with ApacheCluster(kafka_home, tmp_path / "kafka", settings=settings) as cluster:
        topics = make_topics(cluster.bootstrap)
        daemon = hash_daemon_on(topics, *health.flags, env=env)
        health.wait_ready()
        # A transaction that is open when the broker stops ends the daemon before its clocks are overdue.
        wait_until(lambda: len(committed(topics)) == 3, 30, "the partitions' ends are not committed")
        cluster.nodes[0].pause()
        wait_until(lambda: not health.is_ready(), 60, "it believes to be in the group")
        wait_until(lambda: health.failed() == ["in_group"], 60, "it is well without a group")
        cluster.nodes[0].resume()
        wait_until(lambda: daemon.poll() is not None or health.is_ready(), 60, "it does not come back")
        if daemon.poll() is not None:
            # A join that the broker found only now has fenced the one after it (Apache Kafka's issue 20985).
            assert daemon.returncode == 75
            hash_daemon_on(topics, *health.flags, env=env)
            health.wait_ready()
        wait_until(lambda: not health.failed(), 60, "it is not well again")
