from __future__ import annotations

from pathlib import Path

import pytest

from embedstream.errors import (
    BudgetUsedUpError,
    ConfigError,
    EmbedstreamError,
    ServiceUnavailableError,
    TryAgainError,
    UsageError,
)
from embedstream.fleet.client import NoBalanceError
from embedstream.fleet.watch import start, watch
from tests.runpod import EPOCH, FakePod, FakeRunPod, Fate, Fault
from tests.unit.embedstream.fleet.fleets import (
    RTX_3090,
    RTX_4090,
    Job,
    a_fleet,
    a_spec,
    choices,
    environment,
)


def up(api: FakeRunPod, folder: Path, pods: int = 4, **changes: object) -> str | None:
    """`fleet up` in a process of its own; what is short."""
    spec = a_spec(pods, **changes)
    fleet = a_fleet(api, folder)
    fleet.check_name(spec.job)
    fleet.ledger.ask_for(spec)
    return start(fleet, spec, choices(fleet, spec), environment(spec)).shortage


def keep(api: FakeRunPod, folder: Path, job: Job, **changes: object) -> None:
    """`fleet up --watch`."""
    spec = a_spec(**{"pods": 4, **changes})  # type: ignore[arg-type]
    fleet = a_fleet(api, folder)
    fleet.ledger.ask_for(spec)
    watch(fleet, choices(fleet, spec), environment(spec), job, print)


def names(api: FakeRunPod) -> list[str]:
    return sorted(pod.body["name"] for pod in api.running)


def kind(pod: FakePod) -> tuple[str, str]:
    return pod.body["gpu"]["id"], pod.body["cloud"]


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


def test_a_name_that_another_job_has_is_refused(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1)
    with pytest.raises(ConfigError, match="the name 'job' is taken: pod job-0"):
        up(api, tmp_path, pods=1, job="another")
    assert len(api.pods) == 1


@pytest.mark.parametrize("fate", ["vanishes", "exits"])
def test_a_pod_that_ends_before_the_job_is_replaced(fate: Fate, tmp_path: Path) -> None:
    api = FakeRunPod(fates=["runs", fate])
    keep(api, tmp_path, Job(api, drained_at=2 * 3600))
    assert [pod.body["name"] for pod in api.pods.values()].count("job-1") == 2
    assert len(api.pods) == 5
    assert api.running == []


def test_pods_that_drained_the_job_are_not_replaced(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["drains"] * 4, drains_after=3600)
    keep(api, tmp_path, Job(api, drained_at=3500))
    assert len(api.pods) == 4
    assert api.running == []


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


def test_no_money_stops_at_once(tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", "429"), ("POST /pods", "402")])
    with pytest.raises(NoBalanceError, match="no money"):
        up(api, tmp_path)
    assert api.requests.count(("POST", "/pods")) == 2
    a_fleet(api, tmp_path).down()
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


def test_no_capacity_anywhere_says_what_the_last_refusal_was(tmp_path: Path) -> None:
    full = {(gpu, cloud): 0 for gpu in (RTX_4090, RTX_3090) for cloud in ("COMMUNITY", "SECURE")}
    api = FakeRunPod(capacity=full | {(RTX_3090, "SECURE"): 1})
    short = up(api, tmp_path)
    assert short is not None
    assert "no longer any instances" in short
    assert names(api) == ["job-0"]


def test_a_pod_dearer_than_the_limit_is_ended_at_once(tmp_path: Path) -> None:
    api = FakeRunPod(surcharge=0.5)
    short = up(api, tmp_path, max_price=0.40)
    assert short is not None
    assert "it costs" in short
    assert api.running == []


def test_scaling_down_ends_the_last_slots(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    up(api, tmp_path, pods=2)
    assert names(api) == ["job-0", "job-1"]
    up(api, tmp_path, pods=3)
    assert names(api) == ["job-0", "job-1", "job-2"]


def test_a_watch_heeds_a_fleet_that_is_ended_elsewhere(tmp_path: Path) -> None:
    api = FakeRunPod()

    class Ended(Job):
        def is_drained(self) -> bool:
            if self.api.now > 600:
                a_fleet(api, tmp_path).down()
            return False

    keep(api, tmp_path, Ended(api))
    assert api.running == []


def test_a_watch_outlives_an_api_that_is_away(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["vanishes"])

    class Away(Job):
        def is_drained(self) -> bool:
            if 900 < self.api.now < 1000:
                self.api.faults = [("*", "500")] * 20
            return super().is_drained()

    keep(api, tmp_path, Away(api, drained_at=7200))
    assert api.running == []
    assert len(api.pods) == 5


@pytest.mark.parametrize("budget", [0.5, 2.0, 9.99])
def test_the_budget_stops_a_fleet_that_is_watched(budget: float, tmp_path: Path) -> None:
    api = FakeRunPod(obeys_deadlines=False)
    with pytest.raises(BudgetUsedUpError):
        keep(api, tmp_path, Job(api), budget=budget)
    assert api.running == []
    assert api.dollars == pytest.approx(budget, rel=0.15)


@pytest.mark.parametrize("budget", [0.5, 2.0, 50.0])
def test_the_budget_holds_though_nobody_watches(budget: float, tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, budget=budget)
    api.sleep(100 * 3600)
    assert api.running == []
    assert 0.8 * budget < api.dollars <= budget


def test_scaling_up_does_not_promise_the_same_dollars_twice(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=2, budget=2.0)
    with pytest.raises(BudgetUsedUpError, match="promised to the pods that run"):
        up(api, tmp_path, pods=4, budget=2.0)
    a_fleet(api, tmp_path).down()
    up(api, tmp_path, pods=4, budget=2.0)
    api.sleep(100 * 3600)
    assert api.dollars <= 2.0


def test_max_hours_is_a_deadline(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=1, max_hours=2.0)
    (pod,) = api.running
    api.sleep(2.2 * 3600)
    assert api.running == []
    assert pod.gone is not None
    assert pod.gone - pod.made == pytest.approx(7200, abs=60)


def test_dollars_are_those_of_the_api_also_for_pods_that_are_gone(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["runs", "vanishes"])
    up(api, tmp_path, pods=2)
    for _ in range(20):
        api.sleep(300)
        fleet = a_fleet(api, tmp_path)
        fleet.look()
    assert fleet.ledger.dollars == pytest.approx(api.dollars, rel=0.05)


def test_a_file_of_the_fleet_that_is_lost_hides_no_pod(tmp_path: Path) -> None:
    api = FakeRunPod()
    up(api, tmp_path)
    (tmp_path / "job.json").unlink()
    assert len(a_fleet(api, tmp_path).down()) == 4
    assert api.running == []


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
