from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.time_left import judge, watch
from tests.brokers import BrokerHandle


@pytest.mark.slow
def test_daemons_tell_the_time_left_of_a_corpus_that_is_sorted_by_size(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    """A short job on a machine that may do other things: wide bounds, which weighing by records would miss.

    A window of the past is at least 60 s, and the second daemon gets its partitions some seconds after the
    first: a job that is much shorter is told by how it began. Simulated jobs are held to 15% in the unit
    tests; `python -m tests.bench.time_left` measures longer ones.
    """
    looks = watch(kafka_broker.bootstrap, tmp_path, 120, falling=False, seed=1)
    found = judge(looks)
    print(found, *looks, sep="\n")
    assert found["looks"] >= 10
    assert found["median_error"] <= 0.3
    assert found["range_holds_truth"] >= 0.9
