"""Whatever the API does, in whatever order commands run: one pod a slot, the budget holds, down is zero."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedstream.errors import EmbedstreamError
from embedstream.fleet.watch import start
from tests.runpod import FakeRunPod, Fate, Fault
from tests.unit.embedstream.fleet.fleets import RTX_3090, RTX_4090, a_fleet, a_spec, choices, environment

pytestmark = pytest.mark.slow

BUDGET = 20.0
# 403 to a list means a key that may not list: nothing works with it, and it does not pass.
FAULTS = [each for each in get_args(Fault) if each not in ("402", "403")]
WHERE = ["POST /pods", "GET /pods", "DELETE", "GET /catalog", "*"]


class AnyOrder(RuleBasedStateMachine):
    """Commands of one fleet, each in a process of its own that knows nothing but the fleet's file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.api = FakeRunPod()

    def teardown(self) -> None:
        # The faults pass at last: then down leaves nothing, whatever there was.
        self.api.faults.clear()
        a_fleet(self.api, Path(self.folder.name)).down()
        try:
            assert self.api.running == []
        finally:
            self.folder.cleanup()

    @rule(pods=st.integers(1, 5))
    def up(self, pods: int) -> None:
        spec = a_spec(pods, budget=BUDGET)
        fleet = a_fleet(self.api, Path(self.folder.name))
        fleet.ledger.ask_for(spec)
        before = len(self.api.faults)
        with suppress(EmbedstreamError):
            found = choices(fleet, spec)
            raised = start(fleet, spec, found, environment(spec))
            names = [pod.body["name"] for pod in self.api.running if pod.stopped is None]
            if raised.shortage is None and before == 0:
                assert set(names) <= {f"job-{slot}" for slot in range(pods)}

    @rule()
    def down(self) -> None:
        with suppress(EmbedstreamError):
            a_fleet(self.api, Path(self.folder.name)).down()
            # It said that nothing is left.
            assert self.api.running == []

    @rule(minutes=st.integers(1, 300))
    def wait(self, minutes: int) -> None:
        self.api.sleep(minutes * 60)

    @rule(where=st.sampled_from(WHERE), fault=st.sampled_from(FAULTS), times=st.integers(1, 10))
    def break_the_api(self, where: str, fault: Fault, times: int) -> None:
        self.api.faults += [(where, fault)] * times

    @rule(
        fates=st.lists(
            st.sampled_from([each for each in get_args(Fate) if each != "shows up late"]), max_size=4
        )
    )
    def decide(self, fates: list[Fate]) -> None:
        self.api.fates = fates

    @rule(gpu=st.sampled_from([RTX_4090, RTX_3090]), left=st.integers(0, 2))
    def run_short(self, gpu: str, left: int) -> None:
        self.api.capacity[gpu, "COMMUNITY"] = left

    @precondition(lambda self: self.api.running)
    @rule(data=st.data())
    def lose_a_pod(self, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.api.running))
        pod.gone = self.api.now

    @precondition(lambda self: (Path(self.folder.name) / "job.json").exists())
    @rule()
    def look(self) -> None:
        with suppress(EmbedstreamError):
            a_fleet(self.api, Path(self.folder.name)).look()

    @invariant()
    def no_two_pods_have_one_name(self) -> None:
        names = [pod.body["name"] for pod in self.api.running]
        assert len(names) == len(set(names)), names

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.api.dollars <= BUDGET * 1.001, self.api.dollars


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=50,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
