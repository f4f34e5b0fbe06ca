"""Faults in an order from a seed, while documents flow. FAULTS_SEED replays a run."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import pytest

from tests.faults.run import Report
from tests.faults.schedule import BROKER_FAULTS, family
from tests.faults.soak import Soak, all_kinds, run_together

# Where it matters that there are three: leaders and coordinators move.
WITH_BROKERS = (
    *BROKER_FAULTS,
    "kill_after_send_offsets",
    "kill_during_commit",
    "zombie_in_hand",
    "network_cut",
)
WITH_BROKERS_FAULTS = 12


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_nothing_is_missing_or_double_after_every_kind_of_fault(
    kafka_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    with capfd.disabled():
        report = run_all(seed)
    assert not report.problems, f"FAULTS_SEED={seed}"
    assert report.faults.total() >= 60
    assert set(report.families) == set(map(family, all_kinds()))
    assert report.open_kills * 3 >= report.kills, "too few kills hit an open transaction"


def run_all(seed: int) -> Report:
    """Four runs at a time."""
    print(f"\nFAULTS_SEED={seed}", flush=True)
    once, least = len(all_kinds(brokers=1)), len(all_kinds("at-least-once", 1))
    protocols = ["classic", "consumer"]
    if seed % 2:
        protocols.reverse()
    first, second = protocols
    reports = run_together(
        [
            Soak(seed, once, 1, first),
            Soak(seed + 1, once, 1, second),
            Soak(seed + 2, least, 1, first, "at-least-once"),
            Soak(seed + 3, WITH_BROKERS_FAULTS, 3, second, kinds=WITH_BROKERS),
        ],
        at_once=4,
    )
    report = functools.reduce(Report.__add__, reports)
    print(f"all four: {report}", flush=True)
    return report
