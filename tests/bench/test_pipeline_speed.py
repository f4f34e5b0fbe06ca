from __future__ import annotations

import json

import pytest

from tests.bench.pipeline import compare
from tests.brokers import BrokerHandle


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kafka_to_kafka_is_near_the_encoder_alone_and_well_above_a_plain_loop(
    kafka_broker: BrokerHandle,
) -> None:
    """Catches a stage that starves the encoder; the bounds leave room for a noisy machine with no bf16.

    Without the daemon's start and end: on a fast machine they take as long as so few passages.
    """
    found = compare(kafka_broker.bootstrap, passages=192, rounds=2, max_tokens=256)
    print(json.dumps(found, indent=2))
    assert found["kafka_to_loop"] >= 1.2
    assert found["kafka_at_work_to_alone"] >= 0.7
