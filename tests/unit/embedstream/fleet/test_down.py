"""Nothing is left running, whatever failed before or fails meanwhile."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.fleet.ledger import Ledger
from tests.runpod import FakeRunPod
from tests.unit.embedstream.fleet.fleets import Job, a_fleet, a_spec, choices, environment, keep, names, up


def test_down_waits_for_a_pod_that_shows_up_late(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["shows up late"], late_looks=1)
    fleet, spec = a_fleet(api, tmp_path), a_spec(1)
    fleet.ledger.ask_for(spec)

    def break_it(name: str, price: float, until: str | None) -> dict[str, str]:
        api.faults = [("POST /pods", "lost after"), *[("GET /pods", "500")] * 8]  # type: ignore[list-item]
        return environment(spec)(name, price, until)

    with pytest.raises(ServiceUnavailableError):
        fleet.raise_pods(spec, choices(fleet, spec), break_it)
    assert len(api.running) == 1
    fleet.down()
    assert api.running == []


def test_down_that_can_not_end_a_pod_names_it(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    api.faults = [("DELETE", "500")] * 1000
    with pytest.raises(ServiceUnavailableError, match=r"may still run and cost: job-0 \(pod0000x\)"):
        a_fleet(api, tmp_path).down()


def test_down_lets_pods_deliver_first(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=2)
    api.requests.clear()
    a_fleet(api, tmp_path).down()
    changes = [f"{method} {path}" for method, path in api.requests if method != "GET"]
    assert sorted(changes[:2]) == ["POST /pods/pod0000x/action", "POST /pods/pod0001x/action"]
    assert sorted(changes[2:]) == ["DELETE /pods/pod0000x", "DELETE /pods/pod0001x"]


def test_pods_of_others_are_left_alone(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    other = a_fleet(api, tmp_path, "other")
    spec = a_spec(1, name="other")
    other.raise_pods(spec, choices(other, spec), environment(spec))
    a_fleet(api, tmp_path).down()
    assert names(api) == ["other-0"]


def test_a_watch_heeds_a_fleet_that_is_ended_elsewhere(tmp_path: Path) -> None:
    api = FakeRunPod()

    class Ended(Job):
        def is_drained(self) -> bool:
            if self.api.now > 600:
                a_fleet(api, tmp_path).down()
            return False

    keep(api, tmp_path, Ended(api))
    assert api.running == []


def test_a_file_of_the_fleet_that_is_lost_hides_no_pod(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    (tmp_path / "job.json").unlink()
    assert len(a_fleet(api, tmp_path).down()) == 4
    assert api.running == []


def test_scaling_down_ends_the_last_slots(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    up(api, tmp_path, pods=2)
    assert names(api) == ["job-0", "job-1"]
    up(api, tmp_path, pods=3)
    assert names(api) == ["job-0", "job-1", "job-2"]


def test_a_pod_that_can_not_be_ended_does_not_keep_the_others(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    api.faults = [("DELETE /pods/pod0000x", "500")] * 1000
    with pytest.raises(ServiceUnavailableError, match=r"job-0 \(pod0000x\)"):
        a_fleet(api, tmp_path).down()
    assert names(api) == ["job-0"]


def test_a_locked_pod_is_named_and_the_others_end(tmp_path: Path) -> None:
    api = FakeRunPod(locked={"pod0001x"})
    up(api, tmp_path)
    with pytest.raises(ConfigError, match="pod pod0001x can't be deleted"):
        a_fleet(api, tmp_path).down()
    assert names(api) == ["job-1"]


def test_a_pod_that_was_being_made_during_down_does_not_stay(tmp_path: Path) -> None:
    api = FakeRunPod()
    fleet, spec = a_fleet(api, tmp_path), a_spec(3)
    fleet.ledger.ask_for(spec)

    def meanwhile(name: str, price: float, until: str | None) -> dict[str, str]:
        if name == "job-1":
            assert [pod.name for pod in a_fleet(api, tmp_path).down()] == ["job-0"]
        return environment(spec)(name, price, until)

    fleet.raise_pods(spec, choices(fleet, spec), meanwhile)
    assert api.running == []
    assert len(api.pods) == 2


def test_pods_of_these_names_that_another_made_are_told_and_left_alone(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    api.running[0].body["env"].clear()
    fleet = a_fleet(api, tmp_path)
    assert fleet.down() == []
    assert [pod.name for pod in fleet.strangers()] == ["job-0"]
    assert names(api) == ["job-0"]


def test_an_answer_without_a_list_is_no_empty_fleet(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    api.faults = [("GET /pods", "another document")] * 1000
    with pytest.raises(ServiceUnavailableError, match="holds no list of pods"):
        a_fleet(api, tmp_path).down()


def test_a_pod_of_an_unknown_status_hides_no_other(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["is strange"])
    up(api, tmp_path, pods=2)
    assert len(a_fleet(api, tmp_path).down()) == 2
    assert api.running == []


def test_commands_at_the_same_time_lose_nothing_of_the_fleets_file(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=4)
    path = tmp_path / "job.json"

    def look() -> None:
        for _ in range(50):
            Ledger(path).see(pods, api.time())

    pods = a_fleet(api, tmp_path).look()
    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        for number in range(50, 0, -1):
            Ledger(path).ask_for(a_spec(number))
            assert Ledger(path).spec == a_spec(number)
        for each in looking:
            each.result()
    assert Ledger(path).spec == a_spec(1)
    assert len(json.loads(path.read_text())["bills"]) == 4


def test_looking_at_a_fleet_that_never_was_leaves_no_file(tmp_path: Path) -> None:
    a_fleet(FakeRunPod(), tmp_path).look()
    assert list(tmp_path.iterdir()) == []
