from __future__ import annotations

import json

import pytest

from consumer.liveness import Liveness, State
from embedstream.settings import ConsumerSettings

POLL, TRANSACTION, SESSION = 100.0, 30.0, 45.0


class Time:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    moment = Time()
    monkeypatch.setattr("consumer.liveness.time.monotonic", lambda: moment.now)
    return moment


def liveness(protocol: str = "classic") -> Liveness:
    return Liveness(
        ConsumerSettings(
            group_protocol=protocol,
            max_poll_interval_seconds=POLL,
            transaction_timeout_seconds=TRANSACTION,
            session_timeout_seconds=SESSION,
        )
    )


def statistics(state: str, join_state: str) -> str:
    return json.dumps({"cgrp": {"state": state, "join_state": join_state, "assignment_size": 0}})


def failed(liveness: Liveness) -> list[str]:
    well, document = liveness.healthz()
    assert well == document["ok"] == (not document["failed"])
    found = document["failed"]
    assert isinstance(found, list)
    return found


def test_a_model_that_loads_for_hours_is_alive_and_not_ready(clock: Time) -> None:
    daemon = liveness()
    clock.now += 7200
    assert failed(daemon) == []
    assert daemon.readyz() == (False, {"ready": False, "state": State.STARTING, "in_group": False})


def test_a_daemon_that_does_not_poll_is_stuck(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    clock.now += POLL
    assert failed(daemon) == []
    clock.now += 0.1
    assert failed(daemon) == ["polling"]
    daemon.polled(idle=False)
    assert failed(daemon) == []


def test_an_idle_daemon_is_healthy_for_ever(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    for _ in range(100):
        clock.now += POLL
        daemon.polled(idle=True)
        daemon.told(statistics("up", "steady"))
        assert failed(daemon) == []


def test_work_that_does_not_move_on_is_stuck_though_the_daemon_polls(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    found = []
    for _ in range(14):
        clock.now += 10
        daemon.polled(idle=False)
        daemon.told(statistics("up", "steady"))
        found.append(failed(daemon))
    assert found == [[]] * 13 + [["progressing"]]
    daemon.progressed()
    assert failed(daemon) == []


def test_the_clock_of_work_starts_when_work_comes(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    clock.now += 3600
    daemon.polled(idle=True)
    clock.now += 0.05
    daemon.polled(idle=False)
    daemon.told(statistics("up", "steady"))
    assert failed(daemon) == []


def test_a_daemon_that_the_group_does_not_take_for_too_long_is_not_well(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    for state in ("wait-join", "wait-metadata", "init"):
        clock.now += 45
        daemon.polled(idle=True)
        daemon.told(statistics("up", state))
        assert failed(daemon) == []
        assert not daemon.readyz()[0]
    clock.now += 10.1
    daemon.polled(idle=True)
    assert failed(daemon) == ["in_group"]


@pytest.mark.parametrize(
    ("protocol", "state", "join_state", "member"),
    [
        ("classic", "up", "steady", True),
        ("classic", "up", "init", False),
        ("classic", "wait-coord", "steady", False),
        ("consumer", "up", "steady", True),
        ("consumer", "up", "init", True),
        ("consumer", "wait-coord", "init", False),
    ],
)
def test_ready_is_whom_the_group_has_with_partitions_or_without(
    protocol: str, state: str, join_state: str, member: bool
) -> None:
    daemon = liveness(protocol)
    daemon.begin()
    assert not daemon.readyz()[0]
    daemon.told(statistics(state, join_state))
    assert daemon.readyz()[0] == member


def test_a_daemon_that_leaves_is_alive_and_not_ready_and_does_not_come_back() -> None:
    daemon = liveness()
    daemon.begin()
    daemon.told(statistics("up", "steady"))
    daemon.leave()
    daemon.begin()
    assert not daemon.readyz()[0]
    assert failed(daemon) == []


def test_each_clock_is_told_with_its_bound(clock: Time) -> None:
    daemon = liveness()
    daemon.begin()
    clock.now += 1.5
    _, document = daemon.healthz()
    assert document["clocks"] == {
        "polling": {"age_seconds": 1.5, "bound_seconds": POLL},
        "progressing": {"age_seconds": 1.5, "bound_seconds": POLL + TRANSACTION},
        "in_group": {"age_seconds": 1.5, "bound_seconds": POLL + SESSION},
    }
    json.dumps(document)
