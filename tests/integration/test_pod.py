"""A pod's first process: whatever ends the work, the pod is deleted once, and nothing starts it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from tests.brokers import BrokerHandle, free_ports
from tests.consuming import committed, documents, outcome, send
from tests.daemons import Daemon, Daemons
from tests.kafka import Topics, wait_until
from tests.runpod import KEY, FakePod, FakeRunPod

pytestmark = pytest.mark.slow

OWN = "podown"


@pytest.fixture
def broker(embedded_broker: BrokerHandle) -> BrokerHandle:
    return embedded_broker


@contextmanager
def a_pod(
    daemons: Daemons,
    topics: Topics,
    api: FakeRunPod,
    *flags: str,
    env: dict[str, str] | None = None,
    **encoder: object,
) -> Iterator[Daemon]:
    """The process, in a pod that the stand-in knows."""
    body = {"name": "job-0", "image": "i", "gpu": {"id": "NVIDIA GeForce RTX 4090"}, "env": {}}
    for pod_id in (OWN, "podother"):
        api.pods[pod_id] = FakePod(pod_id, body, 0.34, 0.0, "runs")
    with api.serve() as url:
        variables = {
            "EMBEDSTREAM_FLEET__API_URL": url,
            "RUNPOD_POD_ID": OWN,
            "RUNPOD_API_KEY": KEY,
            "EMBEDSTREAM_CONSUMER__INSTANCE_ID": "job-0",
            **(env or {}),
        }
        yield daemons.start(topics, *flags, env=variables, module="tests.pod", **encoder)


def deletes(api: FakeRunPod) -> list[str]:
    return [path for method, path in list(api.requests) if method == "DELETE"]


def ends_itself(pod: Daemon, api: FakeRunPod, timeout: float = 60.0) -> str:
    """Waits until the pod has deleted itself, once, and sleeps; returns why."""
    wait_until(lambda: pod.events("pod_deleted"), timeout, "the pod did not end itself")
    (ended,) = pod.events("pod_ends")
    assert set(deletes(api)) == {f"/pods/{OWN}"}
    assert [each.id for each in api.running] == ["podother"]
    assert not psutil.Process(pod.process.pid).children(recursive=True), "a daemon is left running"
    assert pod.process.poll() is None, "the container would be started again"
    return str(ended["reason"])


def test_drained_it_deletes_itself_once_and_sleeps(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    send(topics, documents(60))
    with a_pod(daemons, topics, api) as pod:
        assert ends_itself(pod, api) == "drained"
        assert outcome(topics).inputs == 60
        time_asleep = time.monotonic() + 3.0
        wait_until(lambda: time.monotonic() > time_asleep, 10.0)
        assert deletes(api) == [f"/pods/{OWN}"]
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait(30.0) == 0


def seconds_to_stop(daemons: Daemons, topics: Topics, api: FakeRunPod) -> float:
    """What a pod that is at work needs, once it is asked to stop."""
    with a_pod(daemons, topics, api, "--window-seconds", "0.2", seconds=0.05) as pod:
        wait_until(lambda: pod.events("window_delivered"), 60.0)
        began = time.monotonic()
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait(30.0) == 0
        took = time.monotonic() - began
        assert "left" in pod.log
        return took


def test_asked_to_stop_it_delivers_and_leaves_the_pod_to_whoever_asked(
    daemons: Daemons, topics: Topics
) -> None:
    api = FakeRunPod()
    send(topics, documents(2000))
    # This time is promised; a machine that is busy with something else is given more than one try.
    took: list[float] = []
    while not took or (took[-1] >= 5.0 and len(took) < 3):
        took.append(seconds_to_stop(daemons, topics, api))
    found = outcome(topics)
    assert found.is_exactly_once
    assert 0 < found.inputs < 2000
    assert deletes(api) == []
    assert min(took) < 5.0, took


def test_at_its_deadline_it_delivers_and_deletes_itself(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    send(topics, documents(3000))
    until = (datetime.now(UTC) + timedelta(seconds=12)).isoformat()
    with a_pod(daemons, topics, api, "--deadline", until, "--window-seconds", "0.2", seconds=0.05) as pod:
        assert "deadline" in ends_itself(pod, api)
        assert outcome(topics).inputs < 3000
        assert deletes(api) == [f"/pods/{OWN}"]


def test_without_kafka_it_deletes_itself_after_a_while(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    (port,) = free_ports(1)
    nobody = Topics(f"127.0.0.1:{port}", topics.documents, topics.embeddings, topics.dead_letters)
    with a_pod(daemons, nobody, api, "--kafka-seconds", "4") as pod:
        assert "no Kafka broker has answered" in ends_itself(pod, api)


def test_another_service_that_stays_away_ends_it_too(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    env = {"POD_DAEMON_EXITS": "69"}
    with a_pod(daemons, topics, api, "--kafka-seconds", "10", env=env) as pod:
        assert "a service that the daemon needs has not answered for 10 s" in ends_itself(pod, api)
        assert len(pod.events("flags")) > 1


def test_the_daemon_gets_the_flags(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    given = ("--allow-plaintext", "--window-seconds", "0.2", "--overflow", "truncate")
    with a_pod(daemons, topics, api, *given, env={"POD_DAEMON_EXITS": "0"}) as pod:
        ends_itself(pod, api)
        (told,) = pod.events("flags")
        own = ["--until-drained", "--bootstrap-servers", topics.bootstrap, "--group", topics.documents]
        assert {*own, *given} <= set(told["flags"])
        assert "--kafka-seconds" not in told["flags"]


def test_a_daemon_that_is_killed_is_started_again(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    send(topics, documents(300))
    with a_pod(daemons, topics, api, "--window-seconds", "0.2", seconds=0.05) as pod:
        wait_until(lambda: pod.events("window_delivered"), 60.0)
        (daemon,) = psutil.Process(pod.process.pid).children()
        os.kill(daemon.pid, signal.SIGKILL)
        assert ends_itself(pod, api, 90.0) == "drained"
        assert outcome(topics).inputs == 300
        assert len(pod.events("daemon_started_again")) == 1
        assert sum(committed(topics).values()) >= 300


def test_an_api_that_fails_is_asked_until_the_pod_is_gone(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod(faults=[("DELETE", "500"), ("DELETE", "429"), ("DELETE", "lost after")])
    env = {"POD_DAEMON_EXITS": "0"}
    with a_pod(daemons, topics, api, env=env) as pod:
        ends_itself(pod, api)
        assert len(deletes(api)) == 4


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (2, "its command line is wrong"),
        (3, "the budget is used up"),
        (4, "too many dead letters"),
        (5, "another pod has taken its place"),
        (78, "a setting is wrong"),
    ],
)
def test_an_end_that_would_repeat_itself_ends_the_pod(
    code: int, reason: str, daemons: Daemons, topics: Topics
) -> None:
    api = FakeRunPod()
    with a_pod(daemons, topics, api, env={"POD_DAEMON_EXITS": str(code)}) as pod:
        assert ends_itself(pod, api) == reason
        assert deletes(api) == [f"/pods/{OWN}"]


def test_on_a_machine_that_is_no_pod_it_ends_as_the_daemon_did(daemons: Daemons, topics: Topics) -> None:
    api = FakeRunPod()
    env = {"POD_DAEMON_EXITS": "3", "RUNPOD_POD_ID": ""}
    with a_pod(daemons, topics, api, env=env) as pod:
        assert pod.wait(30.0) == 3
        assert api.requests == []
