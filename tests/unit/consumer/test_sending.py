"""What a producer refuses before it asks any broker; the rest is in the integration tests."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from consumer.outbound import Headers, ItemRecords, OutboundRecord
from consumer.sending import Sending
from embedstream.errors import ConfigError
from embedstream.kafka import make_producer
from embedstream.settings import KafkaSettings
from tests.unit.consumer.items import an_end


@pytest.mark.parametrize("headers", [(), (("name", b"value"),)])
@pytest.mark.parametrize("reports", [True, False])
def test_a_record_that_the_client_itself_refuses_for_its_size_is_told(
    headers: Headers, *, reports: bool
) -> None:
    producer = make_producer(KafkaSettings(bootstrap_servers="127.0.0.1:1"), message_max_bytes=1000)
    sending = Sending(producer, reports=reports)
    record = OutboundRecord("dead-letters", 0, b"key", bytes(1001), headers)
    sending.send([ItemRecords(an_end(), (record,))])
    assert sending.failed is not None
    assert sending.failed.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert isinstance(sending.refused, ConfigError)
