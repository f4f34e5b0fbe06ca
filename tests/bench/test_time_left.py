from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.time_left import judge, watch
from tests.brokers import BrokerHandle


@pytest.mark.slow
def test_daemons_tell_the_time_left_of_a_corpus_that_is_sorted_by_size(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    """A short job, so that the grain of a look counts for much; the bench runs longer ones."""
    looks = watch(kafka_broker.bootstrap, tmp_path, 50, falling=False, seed=1)
    found = judge(looks)
    print(found, *looks, sep="\n")
    assert found["looks"] >= 10
    assert found["within_15_percent"] == 1.0
    assert found["range_holds_truth"] >= 0.9
