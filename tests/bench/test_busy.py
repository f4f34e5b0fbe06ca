from __future__ import annotations

import json

import pytest

from tests.bench.busy import measure
from tests.brokers import BrokerHandle


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_is_not_starved(kafka_broker: BrokerHandle) -> None:
    """Catches a daemon that lets its device wait, at a rate of which any machine is capable."""
    found = measure(kafka_broker.bootstrap, [50_000.0], 8.0, 1)
    print(json.dumps(found))
    assert found["50,000 tokens/s"]["busy"] >= 0.9
