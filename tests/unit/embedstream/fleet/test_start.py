"""Pods that do not start, or end at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstream.errors import ConfigError, TryAgainError
from tests.runpod import FakeRunPod, Fate
from tests.unit.embedstream.fleet.fleets import RTX_4090, Job, keep, kind, names, up


def test_a_pod_that_never_starts_is_ended_and_made_elsewhere(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["never starts"])
    assert up(api, tmp_path, pods=2) is None
    assert names(api) == ["job-0", "job-1"]
    assert all(pod.status(api.now) == "RUNNING" for pod in api.running)
    assert kind(list(api.pods.values())[-1]) != (RTX_4090, "COMMUNITY")


def test_an_image_that_does_not_exist_ends_what_was_made(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["never starts"] * 100)
    with pytest.raises(ConfigError, match=r"see that the image registry\.example\.org/embedstream:1 exists"):
        up(api, tmp_path, pods=2)
    assert api.running == []


def test_a_watch_over_pods_that_never_start_ends_them(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["never starts"] * 100)
    with pytest.raises(ConfigError, match="none of"):
        keep(api, tmp_path, Job(api, moves=False))
    assert api.running == []


def test_pods_that_end_at_once_are_not_replaced_for_ever(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["vanishes at once"] * 100)
    with pytest.raises(TryAgainError, match="ended soon after they were made"):
        keep(api, tmp_path, Job(api, moves=False))
    assert api.running == []
    assert len(api.pods) <= 12


@pytest.mark.parametrize("fate", ["never starts", "fails at once"])
@pytest.mark.parametrize("count", [1, 2])
def test_pods_that_fail_at_first_are_made_elsewhere(fate: Fate, count: int, tmp_path: Path) -> None:
    api = FakeRunPod(fates=[fate] * count)
    assert up(api, tmp_path, pods=2) is None
    assert names(api) == ["job-0", "job-1"]
    assert len(api.pods) == 2 + count


def test_pods_that_fail_at_once_end_the_command(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["fails at once"] * 100)
    with pytest.raises(ConfigError, match="none of"):
        up(api, tmp_path, pods=2)
    assert api.running == []
    assert len(api.pods) <= 6


def test_one_pod_that_never_starts_is_said_to_be_missing(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["runs", *["fails at once"] * 100])  # type: ignore[list-item]
    short = up(api, tmp_path, pods=2)
    assert short is not None
    assert "did not start" in short
    assert names(api) == ["job-0"]


def test_a_wrong_setting_of_kafka_is_said_before_anything_is_rented(tmp_path: Path) -> None:
    class Refused(Job):
        def is_drained(self) -> bool:
            raise ConfigError("the broker refuses the user 'me' with this password")

    api = FakeRunPod()
    with pytest.raises(ConfigError, match="refuses the user"):
        keep(api, tmp_path, Refused(api))
    assert api.pods == {}


def test_a_job_that_is_drained_already_rents_nothing(tmp_path: Path) -> None:
    api = FakeRunPod()
    keep(api, tmp_path, Job(api, drained_at=0))
    assert api.pods == {}
