"""What is said of topics whose settings fit, lose data, or are not told."""

from __future__ import annotations

import pytest

from embedstream.topic_rules import Problem, Role, Tools, Topic, check, check_room, settings_of_new

NAMES: dict[Role, str] = {"documents": "d", "embeddings": "e", "dead_letters": "x"}
YEAR_MS = 365 * 24 * 3600 * 1000


def good(partitions: int = 4, replicas: int = 1) -> dict[Role, Topic]:
    return {
        role: Topic(name, partitions, replicas, settings_of_new(role, replicas))
        for role, name in NAMES.items()
    }


def problems(topics: dict[Role, Topic]) -> list[Problem]:
    return check(topics, NAMES, Tools("broker:9092"))


def changed(role: Role, replicas: int = 1, **settings: str) -> list[Problem]:
    """Return what is said of good topics when one has other settings."""
    topics = good(replicas=replicas)
    other = {key.replace("_", "."): value for key, value in settings.items()}
    topics[role] = Topic(NAMES[role], 4, replicas, settings_of_new(role, replicas) | other)
    return problems(topics)


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_settings_that_topics_are_made_with_have_nothing_wrong(replicas: int) -> None:
    assert problems(good(replicas=replicas)) == []


def test_a_missing_topic_names_the_command_that_makes_it() -> None:
    topics = good()
    del topics["documents"]
    (problem,) = problems(topics)
    assert problem.topic == "d"
    assert problem.serious
    assert "embedstream topics create" in problem.mend


def test_fewer_dead_letter_partitions_are_serious_and_fewer_embedding_partitions_a_caution() -> None:
    topics = good()
    few_embeddings = Topic("e", 3, 1, topics["embeddings"].settings)
    few_dead_letters = Topic("x", 3, 1, topics["dead_letters"].settings)
    found = problems({**topics, "embeddings": few_embeddings, "dead_letters": few_dead_letters})
    assert [(p.topic, p.setting, p.serious) for p in found] == [
        ("e", "partitions", False),
        ("x", "partitions", True),
    ]
    assert all("--partitions 4" in p.mend for p in found)
    assert problems({**topics, "documents": Topic("d", 3, 1, topics["documents"].settings)}) == []


@pytest.mark.parametrize("policy", ["compact", "compact,delete", "delete, compact"])
def test_a_compacted_embeddings_topic_needs_years_of_delete_retention(policy: str) -> None:
    (problem,) = changed("embeddings", cleanup_policy=policy, delete_retention_ms="86400000")
    assert problem.serious
    assert "24 hours" in problem.message
    assert "delete.retention.ms=" in problem.mend
    (caution,) = changed("embeddings", cleanup_policy=policy, delete_retention_ms=str(3 * YEAR_MS))
    assert not caution.serious


@pytest.mark.parametrize("role", ["documents", "dead_letters"])
def test_the_other_topics_must_not_be_compacted_at_all(role: Role) -> None:
    (problem,) = changed(role, cleanup_policy="compact", delete_retention_ms=str(9 * YEAR_MS))
    assert problem.serious


@pytest.mark.parametrize("role", list(NAMES))
def test_a_retention_limit_is_shown_in_a_unit_that_one_reads(role: Role) -> None:
    by_time, by_size = changed(role, retention_ms="604800000", retention_bytes="0")
    assert "7 days" in by_time.message
    assert "retention.bytes is 0 bytes" in by_size.message
    assert by_time.mend == (
        "kafka-configs.sh --bootstrap-server broker:9092 --alter --entity-type topics"
        f" --entity-name {NAMES[role]} --add-config retention.ms=-1"
    )


def test_retention_does_not_delete_where_the_policy_is_compact_alone() -> None:
    (problem,) = changed("documents", cleanup_policy="compact", retention_ms="1000")
    assert problem.setting == "cleanup.policy"


@pytest.mark.parametrize("role", list(NAMES))
def test_a_message_limit_one_byte_too_small_is_found(role: Role) -> None:
    needed = int(settings_of_new(role, 1)["max.message.bytes"])
    (problem,) = changed(role, max_message_bytes=str(needed - 1))
    assert (problem.topic, problem.setting) == (NAMES[role], "max.message.bytes")
    assert problem.mend.endswith(f"max.message.bytes={needed}")


def test_dead_letters_must_take_the_largest_document_that_their_input_takes() -> None:
    (problem,) = changed("documents", max_message_bytes="8000000")
    assert (problem.topic, problem.setting) == ("x", "max.message.bytes")
    assert problem.mend.endswith(f"max.message.bytes={8_000_000 + 65_536}")


def test_settings_that_lose_acknowledged_records_are_found() -> None:
    (problem,) = changed("embeddings", unclean_leader_election_enable="true")
    assert problem.serious
    (caution,) = changed("embeddings", replicas=3, min_insync_replicas="1")
    assert not caution.serious
    assert changed("embeddings", replicas=1, min_insync_replicas="1") == []


def test_settings_that_the_broker_does_not_tell_are_a_caution_with_what_to_look_for() -> None:
    topics = good()
    topics["documents"] = Topic("d", 4, 1, None, "TOPIC_AUTHORIZATION_FAILED")
    (caution,) = problems(topics)
    assert not caution.serious
    assert "does not tell its settings (TOPIC_AUTHORIZATION_FAILED)" in caution.message
    assert "retention.ms=-1" in caution.mend
    assert "max.message.bytes=2097152" in caution.mend


def test_more_copies_in_sync_than_there_are_stop_every_write() -> None:
    (problem,) = changed("documents", replicas=1, min_insync_replicas="2")
    assert problem.serious
    assert "nothing can be written" in problem.message
    assert "min.insync.replicas=1" in problem.mend


@pytest.mark.parametrize("replicas", [2, 3])
def test_as_many_in_sync_as_copies_is_a_caution(replicas: int) -> None:
    (problem,) = changed("documents", replicas=replicas, min_insync_replicas=str(replicas))
    assert not problem.serious
    assert "losing one broker stops the job" in problem.message
    assert problem.mend.endswith(f"min.insync.replicas={replicas - 1}")


@pytest.mark.parametrize(
    ("replicas", "brokers", "cautions"), [(1, 1, 0), (1, 3, 3), (2, 3, 3), (3, 3, 0), (1, 2, 0)]
)
def test_too_few_copies_are_a_caution_where_there_are_brokers_for_more(
    replicas: int, brokers: int, cautions: int
) -> None:
    found = check(good(replicas=replicas), NAMES, Tools("broker:9092"), brokers)
    assert [each.setting for each in found] == ["replication"] * cautions
    assert not any(each.serious for each in found)


def test_a_job_that_does_not_fit_the_disks_is_said_with_its_copies() -> None:
    # 93 million vectors of 1,024 floats.
    needed = {"documents": 60e9, "all": 60e9 + 93e6 * 1024 * 4}
    assert check_room(good(replicas=1), needed, 600 * 10**9, 1) == []
    (problem,) = check_room(good(replicas=3), needed, 400 * 10**9, 3)
    assert problem.serious
    assert "takes 1,323 GB with all copies, and 3 brokers have 1,200 GB free" in problem.message
