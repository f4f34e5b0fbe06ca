from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from embedstream.errors import ConfigError, EmbedstreamError, UsageError
from tests.runpod import EPOCH, FakeRunPod, Fate, Fault
from tests.unit.embedstream.fleet.fleets import (
    RTX_3090,
    RTX_4090,
    Job,
    a_fleet,
    a_spec,
    choices,
    environment,
    keep,
    kind,
    names,
    up,
)


def test_two_of_the_first_gpu_and_the_rest_of_the_second(tmp_path: Path) -> None:
    api = FakeRunPod(capacity={(RTX_4090, "COMMUNITY"): 2, (RTX_4090, "SECURE"): 0})
    assert up(api, tmp_path) is None
    kinds = [kind(pod) for pod in api.running]
    assert kinds == [(RTX_4090, "COMMUNITY")] * 2 + [(RTX_3090, "COMMUNITY")] * 2
    assert names(api) == ["job-0", "job-1", "job-2", "job-3"]
    creates = api.requests.count(("POST", "/pods"))
    assert creates == 6, "each candidate without capacity is asked once, not for every pod"


def test_up_again_makes_nothing_new(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    before = [pod.id for pod in api.running]
    up(api, tmp_path)
    assert [pod.id for pod in api.running] == before


def test_the_cloud_comes_after_the_gpu(tmp_path: Path) -> None:
    api = FakeRunPod(capacity={(RTX_4090, "COMMUNITY"): 0})
    up(api, tmp_path, pods=1)
    assert [kind(pod) for pod in api.running] == [(RTX_4090, "SECURE")]


FAULTS: list[list[tuple[str, Fault]]] = [
    [("POST /pods", "lost after")],
    [("POST /pods", "lost before")],
    [("POST /pods", "half an answer")],
    [("POST /pods", "500")],
    [("POST /pods", "502 html")],
    [("POST /pods", "429")],
    [("POST /pods", "403")],
    [("POST /pods", "lost after"), ("POST /pods", "lost after"), ("POST /pods", "lost after")],
    [("POST /pods", "lost after"), ("GET /pods", "500"), ("GET /pods", "lost before")],
    [("POST /pods", "500"), ("POST /pods", "lost before"), ("POST /pods", "lost after")],
    [("GET /pods", "429")] * 3,
    [("GET /pods", "500")] * 5,
    [("GET /pods", "502 html"), ("POST /pods", "429"), ("POST /pods", "lost after")],
    [("GET /catalog", "500"), ("GET /catalog", "429")],
    [("*", "429")] * 6,
    [("*", "lost after")] * 4,
    [("*", "500")] * 4,
    [("DELETE", "500"), ("DELETE", "lost after")],
    [("DELETE", "429"), ("DELETE", "lost before"), ("DELETE", "502 html")],
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda each: " ".join(f"{a}:{b}" for a, b in each))
def test_up_gives_the_pods_and_no_other_and_down_leaves_none(
    faults: list[tuple[str, Fault]], tmp_path: Path
) -> None:
    api = FakeRunPod(faults=list(faults))
    up(api, tmp_path)
    assert names(api) == ["job-0", "job-1", "job-2", "job-3"]
    assert len(api.pods) == 4, "a lost answer has made a second pod"
    api.faults += [each for each in faults if each[0] in ("DELETE", "*")]
    a_fleet(api, tmp_path).down()
    assert api.running == []


@pytest.mark.parametrize("fault", ["500", "502 html", "lost before", "429"])
def test_a_failure_that_passes_costs_no_candidate(fault: Fault, tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", fault)])
    up(api, tmp_path, pods=2)
    assert [kind(pod) for pod in api.running] == [(RTX_4090, "COMMUNITY")] * 2


@pytest.mark.parametrize("late_looks", [1, 2, 3, 4])
def test_a_pod_that_shows_up_late_after_a_lost_answer_is_waited_for(late_looks: int, tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", "lost after")], fates=["shows up late"], late_looks=late_looks)
    up(api, tmp_path, pods=2)
    assert len(api.pods) == 2
    assert names(api) == ["job-0", "job-1"]


def test_a_pod_that_shows_up_far_too_late_is_ended_as_the_second_of_its_name(tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", "lost after")], fates=["shows up late"], late_looks=8)
    up(api, tmp_path, pods=1)
    assert names(api) == ["job-0"]
    a_fleet(api, tmp_path).down()
    assert api.running == []


def test_a_name_that_another_job_has_is_refused(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    with pytest.raises(ConfigError, match="the name 'job' is taken: pod job-0"):
        up(api, tmp_path, pods=1, job="another")
    assert len(api.pods) == 1


@pytest.mark.parametrize("fate", ["vanishes", "exits"])
def test_a_pod_that_ends_before_the_job_is_replaced(fate: Fate, tmp_path: Path) -> None:
    api = FakeRunPod(fates=["runs", fate])
    keep(api, tmp_path, Job(api, drained_at=3600))
    assert [pod.body["name"] for pod in api.pods.values()].count("job-1") == 2
    assert len(api.pods) == 5
    assert api.running == []


def test_pods_that_drained_the_job_are_not_replaced(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["drains"] * 4, drains_after=3600)
    keep(api, tmp_path, Job(api, drained_at=3500))
    assert len(api.pods) == 4
    assert api.running == []


def test_a_wrong_key_is_one_line(tmp_path: Path) -> None:
    api = FakeRunPod(keys={"another"})
    with pytest.raises(ConfigError, match="refuses the API key"):
        up(api, tmp_path)
    assert len(api.requests) == 1, "it is not tried again"


def test_a_rate_limit_is_waited_for_as_long_as_it_says(tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("GET /pods", "429")])
    a_fleet(api, tmp_path).look()
    assert api.now == 7.0


def test_a_rate_limit_may_be_a_date(tmp_path: Path) -> None:
    import httpx

    from embedstream.fleet.client import RunPod

    waited: list[float] = []
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    answers = iter(
        [httpx.Response(429, headers={"Retry-After": soon}), httpx.Response(200, json={"pods": []})]
    )
    runpod = RunPod("key", transport=httpx.MockTransport(lambda _: next(answers)), sleep=waited.append)
    assert runpod.pods() == []
    assert 60 < waited[0] <= 100


def test_no_capacity_anywhere_says_what_the_last_refusal_was(tmp_path: Path) -> None:
    full = {(gpu, cloud): 0 for gpu in (RTX_4090, RTX_3090) for cloud in ("COMMUNITY", "SECURE")}
    api = FakeRunPod(capacity=full | {(RTX_3090, "SECURE"): 1})
    short = up(api, tmp_path)
    assert short is not None
    assert "no longer any instances" in short
    assert names(api) == ["job-0"]


def test_a_watch_outlives_an_api_that_is_away(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["vanishes"])

    class Away(Job):
        def is_drained(self) -> bool:
            if 900 < self.api.now < 1000:
                self.api.faults = [("*", "500")] * 20
            return super().is_drained()

    keep(api, tmp_path, Away(api, drained_at=3600))
    assert api.running == []
    assert len(api.pods) == 5


def test_the_fleets_file_holds_no_secret(tmp_path: Path) -> None:
    api = FakeRunPod()
    spec = a_spec(1)
    fleet = a_fleet(api, tmp_path)
    fleet.ledger.ask_for(spec)
    fleet.raise_pods(
        spec,
        choices(fleet, spec),
        lambda name, price, until: environment(spec)(name, price, until) | {"P": "hush"},
    )
    assert api.running[0].body["env"]["P"] == "hush"
    assert "hush" not in (tmp_path / "job.json").read_text()


@pytest.mark.parametrize(
    ("gpus", "max_price", "told"),
    [
        (["RTX 4909"], None, "did you mean 'NVIDIA GeForce RTX 4090'"),
        (["rtx 4090"], 0.20, "the cheapest is NVIDIA GeForce RTX 4090 on COMMUNITY at $0.34/h"),
        ([], None, "no GPU is named"),
    ],
)
def test_what_a_person_gets_wrong_about_gpus(
    gpus: list[str], max_price: float | None, told: str, tmp_path: Path
) -> None:
    from embedstream.fleet.plan import candidates

    fleet = a_fleet(FakeRunPod(), tmp_path)
    catalogue = {cloud: fleet.runpod.gpus(cloud) for cloud in a_spec().clouds}
    with pytest.raises(UsageError, match=told.replace("$", r"\$")):
        candidates(gpus, a_spec().clouds, catalogue, max_price)


def test_a_price_limit_leaves_the_candidates_under_it(tmp_path: Path) -> None:
    api = FakeRunPod()
    fleet, spec = a_fleet(api, tmp_path), a_spec(max_price=0.40)
    assert [(each.gpu, each.cloud) for each in choices(fleet, spec)] == [
        (RTX_4090, "COMMUNITY"),
        (RTX_3090, "COMMUNITY"),
    ]


def test_a_request_that_the_api_does_not_know_is_not_repeated(tmp_path: Path) -> None:
    api = FakeRunPod()
    fleet, spec = a_fleet(api, tmp_path), a_spec(1, min_cuda="new")
    with pytest.raises(EmbedstreamError, match=r"minCudaVersion: does not match"):
        fleet.raise_pods(spec, choices(fleet, spec), environment(spec))
    assert api.requests.count(("POST", "/pods")) == 1


def test_a_clock_of_the_stand_in_starts_at_its_epoch() -> None:
    assert FakeRunPod().time() == EPOCH
