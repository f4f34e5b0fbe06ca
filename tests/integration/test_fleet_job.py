from __future__ import annotations

import pytest

from embedstream.fleet.job import KafkaJob
from embedstream.settings import Settings, load
from tests.brokers import BrokerHandle
from tests.consuming import documents, send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics

pytestmark = pytest.mark.slow


def test_a_job_is_drained_when_its_group_has_committed_what_was_there(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics: Topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(30))
    settings: Settings = load().model_copy(update={"kafka": topics.kafka})
    consumer = settings.consumer.model_copy(update={"group": topics.documents})
    job = KafkaJob(settings.model_copy(update={"consumer": consumer}))
    assert not job.is_drained()
    assert job.progress() == 0
    assert daemons.start(topics, "--until-drained").wait() == 0
    assert job.progress() >= 30
    # What comes later is no part of it.
    send(topics, documents(5, first=100))
    assert job.is_drained()
