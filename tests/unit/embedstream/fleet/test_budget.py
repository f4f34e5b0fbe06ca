"""What a fleet costs, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstream.errors import BudgetUsedUpError, ConfigError
from embedstream.fleet.client import NoBalanceError
from embedstream.fleet.fleet import BILL_SECONDS
from embedstream.fleet.plan import LONGEST_SECONDS, deadline
from tests.runpod import FakeRunPod
from tests.unit.embedstream.fleet.fleets import (
    RTX_3090,
    RTX_4090,
    Job,
    a_fleet,
    a_spec,
    keep,
    kind,
    up,
)


def test_no_money_stops_at_once(tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", "429"), ("POST /pods", "402")])
    with pytest.raises(NoBalanceError, match="no money"):
        up(api, tmp_path)
    assert api.requests.count(("POST", "/pods")) == 2
    a_fleet(api, tmp_path).down()
    assert api.running == []


def test_a_pod_dearer_than_the_limit_is_ended_at_once(tmp_path: Path) -> None:
    api = FakeRunPod(surcharge=0.5)
    short = up(api, tmp_path, max_price=0.40)
    assert short is not None
    assert "it costs" in short
    assert api.running == []


@pytest.mark.parametrize("budget", [0.5, 2.0])
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


def test_a_watch_without_money_goes_on_while_pods_run(tmp_path: Path) -> None:
    api = FakeRunPod(fates=["runs", "vanishes"])

    class Poor(Job):
        def is_drained(self) -> bool:
            if self.api.now > 1000:
                self.api.faults = [("POST /pods", "402")] * 10
            return super().is_drained()

    keep(api, tmp_path, Poor(api, drained_at=3600), pods=2)
    assert len(api.pods) == 2
    assert api.running == []


def test_a_watch_without_money_and_pods_ends(tmp_path: Path) -> None:
    api = FakeRunPod(faults=[("POST /pods", "402")])
    with pytest.raises(NoBalanceError, match="no money") as error:
        keep(api, tmp_path, Job(api))
    assert error.value.exit_code == 3
    assert api.requests.count(("POST", "/pods")) == 1
    assert api.running == []


@pytest.mark.parametrize("before", [{}, {"budget": 50.0}, {"max_hours": 200.0}])
def test_pods_that_would_not_end_within_a_new_budget_are_told(
    before: dict[str, float], tmp_path: Path
) -> None:
    api = FakeRunPod()
    up(api, tmp_path, pods=2, **before)
    fleet = a_fleet(api, tmp_path)
    with pytest.raises(ConfigError, match=r"made without --budget 5 and .* scale 0"):
        fleet.check_budget(a_spec(2, budget=5.0))


def test_a_fleet_asked_for_again_is_within_its_budget(tmp_path: Path) -> None:
    api = FakeRunPod()
    for minutes in (0, 30, 90):
        api.sleep(60.0 * minutes)
        a_fleet(api, tmp_path).check_budget(a_spec(budget=5.0))
        up(api, tmp_path, budget=5.0)
    assert len(api.pods) == 4


def test_no_pod_is_made_that_could_not_do_anything_before_its_share_is_used_up(tmp_path: Path) -> None:
    # 11 cents each: 28 minutes of the cheap one, 13 of the dear one.
    api = FakeRunPod(capacity={(RTX_3090, "COMMUNITY"): 1, (RTX_4090, "COMMUNITY"): 0})
    short = up(api, tmp_path, pods=2, budget=0.22)
    assert short is not None
    assert "too short a time" in short
    assert [kind(pod) for pod in api.running] == [(RTX_3090, "COMMUNITY")]


@pytest.mark.parametrize(("dollars", "hours"), [(1e300, None), (None, 1e300), (1e300, 1e300)])
def test_a_limit_past_all_dates_is_a_date(dollars: float | None, hours: float | None) -> None:
    now = FakeRunPod().time()
    found = deadline(dollars, hours, 0.34, now)
    assert found is not None
    assert (found - now).total_seconds() == pytest.approx(LONGEST_SECONDS, abs=1)


def test_what_a_pod_cost_that_nobody_saw_end_is_not_less_than_the_truth_and_then_the_bill(
    tmp_path: Path,
) -> None:
    api = FakeRunPod(fates=["vanishes"])
    up(api, tmp_path, pods=1)
    api.sleep(6 * 3600)
    fleet = a_fleet(api, tmp_path)
    fleet.look()
    assert fleet.ledger.dollars > api.dollars
    api.sleep(3 * 3600)
    api.faults = [("GET /billing", "500")]
    fleet.look()
    assert fleet.ledger.dollars > api.dollars
    api.sleep(BILL_SECONDS)
    fleet.look()
    assert fleet.ledger.dollars == pytest.approx(api.dollars)
    assert a_fleet(api, tmp_path).ledger.dollars == pytest.approx(api.dollars)
