"""What `cutover` refuses, and the codes that it ends with."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from confluent_kafka import TopicPartition

from embedstream.aliases import Alias, read_aliases, write_alias
from embedstream.cutover import roll_back
from embedstream.errors import FindingError
from embedstream.offsets import GroupOffsets
from embedstream.topics import create_topics
from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import committed, documents, send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics
from tests.replays import alias_of, settings_of


def cutover(topics: Topics, *flags: str) -> subprocess.CompletedProcess[str]:
    done = run_cli("cutover", *topics.flags, "--group", topics.documents, "--alias", alias_of(topics), *flags)
    assert "Traceback" not in done.stderr
    return done


def test_what_makes_no_sense_is_one_line(embedded_broker: BrokerHandle) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    wanted = {
        (): (2, "give either --to TOPIC or --rollback"),
        ("--to", topics.embeddings, "--rollback"): (2, "give either --to TOPIC or --rollback"),
        ("--to", "absent"): (78, "--to 'absent' does not exist"),
        ("--to", topics.embeddings): (78, "has committed no offsets"),
        ("--rollback",): (78, f"--alias {alias_of(topics)} does not exist"),
        ("--to", topics.embeddings, "--alias", ""): (2, "--alias is empty"),
    }
    for flags, (code, told) in wanted.items():
        done = cutover(topics, *flags)
        assert done.returncode == code, done
        assert told in done.stderr.strip().splitlines()[-1]
    assert alias_of(topics) not in read_aliases(topics.kafka)


@pytest.mark.slow
def test_the_first_alias_may_stand_for_what_is_live(embedded_broker: BrokerHandle, daemons: Daemons) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(6))
    assert daemons.start(topics, "--until-drained").wait() == 0
    done = cutover(topics, "--to", topics.embeddings, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["topic"], told["group"], told["previous"]) == (topics.embeddings, topics.documents, None)
    assert {int(each): offset for each, offset in told["offsets"].items()} == committed(topics)
    back = cutover(topics, "--rollback")
    assert back.returncode == 78
    assert f"has stood for {topics.embeddings} only" in back.stderr


@pytest.mark.slow
def test_an_alias_whose_topic_before_is_gone_has_no_way_back(embedded_broker: BrokerHandle) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    before = Alias(f"{topics.embeddings}.gone", "m", "f", 8, topics.documents, "g", {0: 0}, 1)
    now = replace(before, topic=topics.embeddings, previous=before)
    write_alias(topics.kafka, alias_of(topics), now)
    done = cutover(topics, "--rollback")
    assert done.returncode == 78
    assert f"stood for before, '{before.topic}' does not exist" in done.stderr


def test_a_live_group_that_the_broker_has_forgotten_still_counts(embedded_broker: BrokerHandle) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    other = replace(topics, embeddings=f"{topics.embeddings}.other")
    create_topics(other.kafka, 3)
    before = Alias(other.embeddings, "m", "f", 8, topics.documents, "before", {0: 2}, 1)
    now = replace(before, topic=topics.embeddings, group="forgotten", offsets={0: 9, 1: 4}, previous=before)
    write_alias(topics.kafka, alias_of(topics), now)
    with GroupOffsets(topics.kafka, "before") as group:
        group.write([TopicPartition(topics.documents, 0, 2, "f")])
    with pytest.raises(FindingError, match=r"^11 records are missing in"):
        roll_back(settings_of(topics), alias_of(topics), wait_seconds=0)
