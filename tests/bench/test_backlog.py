from __future__ import annotations

from dataclasses import asdict

import pytest

from tests.bench.backlog import measure
from tests.brokers import BrokerHandle


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backlog_of_any_size_takes_the_same_memory(kafka_broker: BrokerHandle) -> None:
    small = {"EMBEDSTREAM_CONSUMER__QUEUE_BYTES": "1048576", "EMBEDSTREAM_CONSUMER__WINDOW_BYTES": "1048576"}
    found = measure(kafka_broker.bootstrap, 200_000, settings=small)
    print(asdict(found))
    # What the clients take in their first seconds weighs more in a short run than over a million records.
    assert found.by_twentieths[17] <= 1.1 * found.by_twentieths[9]
