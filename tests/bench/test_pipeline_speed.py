from __future__ import annotations

import json

import pytest

from tests.bench.pipeline import compare
from tests.brokers import BrokerHandle


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kafka_to_kafka_is_near_the_encoder_alone_and_twice_a_plain_loop(kafka_broker: BrokerHandle) -> None:
    found = compare(kafka_broker.bootstrap, passages=512, rounds=3)
    print(json.dumps(found, indent=2))
    assert found["kafka_to_loop"] >= 2.0
    assert found["kafka_to_alone"] >= 0.9
