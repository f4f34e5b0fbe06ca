"""Every kind of fault once, in an order from a seed, while documents flow. FAULTS_SEED replays a run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.soak import all_kinds, soak


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_nothing_is_missing_or_double_after_every_kind_of_fault(kafka_home: Path, protocol: str) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    kinds = all_kinds()
    report = soak(kafka_home, seed=seed, faults=len(kinds), brokers=1, protocol=protocol)
    assert not report.problems, f"FAULTS_SEED={seed}"
    assert report.open_kills * 3 >= report.kills, "too few kills hit an open transaction"
