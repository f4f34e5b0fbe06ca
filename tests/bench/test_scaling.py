from __future__ import annotations

import pytest

from tests.bench.scaling import PASSAGES_PER_SECOND, Costs, simulate

CHEAP = Costs(broker=20e-6, consumer=100e-6)


@pytest.mark.parametrize("pods", [1, 4, 16])
def test_pods_add_up_while_the_broker_has_time_for_them(pods: int) -> None:
    assert simulate(pods, CHEAP) == pytest.approx(pods * PASSAGES_PER_SECOND, rel=0.02)


def test_a_daemon_that_keeps_its_core_busy_is_the_limit() -> None:
    busy = Costs(broker=20e-6, consumer=5e-3)
    assert simulate(4, busy) == pytest.approx(4 / 5e-3, rel=0.03)


def test_past_what_its_cores_can_do_the_broker_is_the_limit() -> None:
    dear = Costs(broker=1e-3, consumer=0.0)
    assert simulate(64, dear) == pytest.approx(2 / 1e-3, rel=0.05)
    assert simulate(64, dear, cores=4) == pytest.approx(4 / 1e-3, rel=0.05)
