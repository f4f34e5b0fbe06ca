"""A producer that is killed again and again, and a corpus that changes: what a reader of the output keeps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.brokers import BrokerHandle
from tests.faults.corpus import change_and_prune, embed, kept_by_a_reader, kill_and_resume
from tests.kafka import make_topics


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_producer_killed_ten_times_sends_everything_and_next_to_nothing_twice(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    topics = make_topics(kafka_broker.bootstrap)
    # At full speed one run would send them all before it can be killed.
    found = kill_and_resume(topics, tmp_path, 6000, 10, seed, "--rate", "100KB")
    print(found)
    assert len(found["killed_at"]) == 10
    assert len(set(found["killed_at"])) > 5, "most of the kills hit nothing"
    assert found["sent_again"] <= sum(found["unrecorded"])
    embed(topics)
    kept = kept_by_a_reader(topics)
    assert len({name for name, *_ in kept}) == 6000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_reader_keeps_after_changes_is_what_a_fresh_run_gives(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    topics, fresh = make_topics(kafka_broker.bootstrap), make_topics(kafka_broker.bootstrap)
    found = change_and_prune(topics, fresh, tmp_path, documents=3000, seed=seed)
    print(found)
    assert (found["changed"], found["deleted"]) == (30, 30)
