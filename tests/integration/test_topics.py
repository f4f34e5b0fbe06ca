"""Making and checking topics on real brokers; what the rules say is in the unit tests."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from embedstream.errors import ConfigError, ServiceUnavailableError, UsageError
from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings
from embedstream.topics import check_topics, create_topics
from tests.brokers import BrokerHandle, free_ports
from tests.kafka import Topics, wait_until


@pytest.fixture
def kafka(broker: BrokerHandle) -> KafkaSettings:
    """Settings that name three topics which do not exist."""
    name = uuid.uuid4().hex[:8]
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap,
        documents_topic=f"{name}.documents",
        embeddings_topic=f"{name}.embeddings",
        dead_letters_topic=f"{name}.dead-letters",
    )


def names(kafka: KafkaSettings) -> list[str]:
    return [kafka.documents_topic, kafka.embeddings_topic, kafka.dead_letters_topic]


def make(admin: AdminClient, topic: str, partitions: int, **settings: str) -> None:
    config = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30.0)
    # The controller has made it; brokers hear of it a moment later.
    wait_until(lambda: topic in admin.list_topics(timeout=10.0).topics, 30, f"{topic} is seen")


def test_topics_that_were_just_made_have_nothing_wrong(kafka: KafkaSettings) -> None:
    made = create_topics(kafka, partitions=4)
    assert (list(made.created), made.existing, made.problems) == (names(kafka), (), ())
    assert check_topics(kafka) == []
    found = make_admin(kafka).list_topics(timeout=10.0).topics
    assert [len(found[name].partitions) for name in names(kafka)] == [4, 4, 4]


def test_making_them_again_reports_and_leaves_them(kafka: KafkaSettings) -> None:
    create_topics(kafka, partitions=2)
    again = create_topics(kafka, partitions=2)
    assert (again.created, list(again.existing), again.problems) == ((), names(kafka), ())


def test_an_existing_topic_with_too_few_partitions_is_a_finding_and_is_left(kafka: KafkaSettings) -> None:
    make(make_admin(kafka), kafka.dead_letters_topic, 1, max_message_bytes="8000000", retention_ms="-1")
    made = create_topics(kafka, partitions=2)
    assert list(made.created) == names(kafka)[:2]
    (problem,) = made.problems
    assert (problem.topic, problem.setting, problem.serious) == (kafka.dead_letters_topic, "partitions", True)
    assert "--partitions 2" in problem.mend
    found = make_admin(kafka).list_topics(timeout=10.0).topics
    assert len(found[kafka.dead_letters_topic].partitions) == 1


def test_checking_makes_no_topic(kafka: KafkaSettings) -> None:
    for _ in range(2):
        problems = check_topics(kafka)
        assert [problem.topic for problem in problems] == names(kafka)
        assert all("embedstream topics create" in problem.mend for problem in problems)


def test_settings_that_lose_data_are_findings(kafka: KafkaSettings) -> None:
    admin = make_admin(kafka)
    make(admin, kafka.documents_topic, 2, retention_ms="604800000", max_message_bytes="2097152")
    make(admin, kafka.embeddings_topic, 2, cleanup_policy="compact")
    make(admin, kafka.dead_letters_topic, 2, retention_ms="-1", retention_bytes="1000", max_message_bytes="9")
    found = {(problem.topic, problem.setting): problem for problem in check_topics(kafka)}
    assert set(found) == {
        (kafka.documents_topic, "retention.ms"),
        (kafka.embeddings_topic, "cleanup.policy"),
        (kafka.dead_letters_topic, "retention.bytes"),
        (kafka.dead_letters_topic, "max.message.bytes"),
    }
    assert all(problem.serious for problem in found.values())
    assert "7 days" in found[kafka.documents_topic, "retention.ms"].message
    assert "delete.retention.ms" in found[kafka.embeddings_topic, "cleanup.policy"].mend


def test_a_broker_default_that_deletes_counts_as_much_as_a_setting(topics: Topics) -> None:
    kafka = topics.kafka.model_copy(update={"documents_topic": f"{topics.documents}-by-hand"})
    make(make_admin(kafka), kafka.documents_topic, 3, max_message_bytes="2097152")
    assert [problem.setting for problem in check_topics(kafka)] == ["retention.ms"]


def test_a_topic_name_that_the_broker_refuses_is_named(kafka: KafkaSettings) -> None:
    with pytest.raises(ConfigError, match=r"two words.*choose a name"):
        create_topics(kafka.model_copy(update={"documents_topic": "two words"}), partitions=1)


def test_more_replicas_than_brokers_is_refused_with_the_mend(kafka: KafkaSettings) -> None:
    with pytest.raises(ConfigError, match="--replication"):
        create_topics(kafka, partitions=1, replication=3)


def test_one_name_for_two_topics_is_refused(kafka: KafkaSettings) -> None:
    same = kafka.model_copy(update={"dead_letters_topic": kafka.embeddings_topic})
    with pytest.raises(ConfigError, match="name of its own"):
        create_topics(same, partitions=1)


@pytest.mark.parametrize(("partitions", "replication"), [(0, None), (1, 0)])
def test_numbers_below_one_are_refused(partitions: int, replication: int | None) -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        create_topics(KafkaSettings(), partitions, replication)


@pytest.mark.slow
def test_no_broker_is_one_line_that_names_the_setting() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServiceUnavailableError, match=r"kafka\.bootstrap_servers"):
        check_topics(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}"))
