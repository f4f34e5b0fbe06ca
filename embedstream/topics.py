"""Makes the three topics with settings that keep everything, and checks the ones that exist.

made = create_topics(settings.kafka, partitions=8)
problems = check_topics(settings.kafka)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from embedstream.errors import ConfigError, ServiceUnavailableError, UsageError
from embedstream.kafka import CONNECT_TIMEOUT_SECONDS, all_topics, describe_error, explain, make_admin
from embedstream.settings import KafkaSettings
from embedstream.topic_rules import Problem, Role, Tools, Topic, check, check_room, settings_of_new

__all__ = [
    "Created",
    "Problem",
    "check_topics",
    "copies_of",
    "create_topics",
    "make_compacted_topic",
]

_TIMEOUT_SECONDS = 30.0
# The request itself is wrong, whoever sends it again.
_REFUSALS = {
    KafkaError.INVALID_REPLICATION_FACTOR: "choose another --replication, at most the number of brokers",
    KafkaError.INVALID_PARTITIONS: "choose another --partitions",
    KafkaError.TOPIC_EXCEPTION: "choose a name of letters, digits, '.', '_' and '-'",
    KafkaError.POLICY_VIOLATION: "make it with the broker's own tools, then run `embedstream topics check`",
    KafkaError.INVALID_CONFIG: "make it with the broker's own tools, then run `embedstream topics check`",
}


@dataclass(frozen=True)
class Created:
    """The topics that were made, those that were there and left alone, and what is wrong with the latter."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Shape:
    """What the metadata tells of a topic: `replicas` is the fewest copies that a partition has."""

    partitions: int
    replicas: int
    has_leaders: bool


def create_topics(kafka: KafkaSettings, partitions: int, replication: int | None = None) -> Created:
    """Make the topics that are missing and leave the others as they are; return when all can be used.

    Args:
        kafka: Names the broker and the topics.
        partitions: Of each topic.
        replication: Copies of each partition; None takes the broker's default.

    Raises:
        UsageError: `partitions` or `replication` is below 1.
        ConfigError: The broker refuses a topic, or two of them have the same name.
        ServiceUnavailableError: No broker answers, or the topics got no leaders in time.
    """
    for flag, number in (("--partitions", partitions), ("--replication", replication)):
        if number is not None and number < 1:
            raise UsageError(f"{flag} is {number}", "give 1 or more")
    names = _names(kafka)
    admin = make_admin(kafka)
    there = _shapes(admin)
    created = _create(
        admin,
        [
            NewTopic(
                name,
                num_partitions=partitions,
                replication_factor=replication or -1,
                config=settings_of_new(role, replication),
            )
            for role, name in names.items()
            if name not in there
        ],
    )
    _wait_for_leaders(admin, list(names.values()))
    tools = Tools(kafka.bootstrap_servers)
    topics = _describe(admin, names)
    existing = tuple(name for name in names.values() if name not in created)
    problems = [
        Problem(
            topic.name,
            "partitions",
            f"it has {topic.partitions} partitions, fewer than the {partitions} asked for",
            tools.add_partitions(topic.name, partitions),
        )
        for topic in topics.values()
        if topic.name in existing and topic.partitions < partitions
    ]
    # A partition count that was reported once needs no second finding.
    reported = {(problem.topic, problem.setting) for problem in problems}
    problems += [
        problem
        for problem in check(topics, names, tools)
        if problem.topic in existing and (problem.topic, problem.setting) not in reported
    ]
    return Created(tuple(created), existing, tuple(problems))


def check_topics(
    kafka: KafkaSettings, needed: Mapping[str, float] | None = None, disk: int = 0
) -> list[Problem]:
    """Say what is wrong with the topics, in the order documents, embeddings, dead letters; then the disks.

    Args:
        kafka: Names the broker and the topics.
        needed: Bytes of the whole job, as `topic_rules.check_room` takes them; None not to ask.
        disk: Free bytes of each broker: Kafka tells them to no client of this kind.

    Raises:
        ConfigError: Two of the topics have the same name.
        ServiceUnavailableError: No broker answers.
    """
    names = _names(kafka)
    admin = make_admin(kafka)
    topics, brokers = _describe(admin, names), len(all_topics(admin).brokers)
    problems = check(topics, names, Tools(kafka.bootstrap_servers), brokers)
    return problems + (check_room(topics, needed, disk, brokers) if needed is not None else [])


def copies_of(admin: AdminClient, name: str) -> int | None:
    """The fewest copies that a partition of a topic has; None where it is gone or the broker does not tell.

    Raises:
        ServiceUnavailableError: No broker answers.
    """
    shape = _shapes(admin).get(name)
    return None if shape is None else shape.replicas or None


def make_compacted_topic(admin: AdminClient, name: str) -> None:
    """Make a topic that keeps the last record of each key, with one partition, if it is missing.

    Raises:
        ConfigError: The broker refuses it.
        ServiceUnavailableError: No broker answers.
    """
    if name not in _shapes(admin):
        settings = {"cleanup.policy": "compact"}
        _create(admin, [NewTopic(name, num_partitions=1, replication_factor=-1, config=settings)])
        _wait_for_leaders(admin, [name])


def _names(kafka: KafkaSettings) -> dict[Role, str]:
    names: dict[Role, str] = {
        "documents": kafka.documents_topic,
        "embeddings": kafka.embeddings_topic,
        "dead_letters": kafka.dead_letters_topic,
    }
    if len(set(names.values())) < len(names):
        raise ConfigError(
            "kafka.documents_topic, kafka.embeddings_topic and kafka.dead_letters_topic are not three topics",
            "give each a name of its own",
        )
    return names


def _shapes(admin: AdminClient) -> dict[str, _Shape]:
    """Return every topic of the cluster."""
    topics = all_topics(admin).topics
    return {
        name: _Shape(
            len(topic.partitions),
            min(len(partition.replicas) for partition in topic.partitions.values()),
            all(partition.leader >= 0 for partition in topic.partitions.values()),
        )
        for name, topic in topics.items()
        if topic.partitions
    }


def _create(admin: AdminClient, topics: list[NewTopic]) -> list[str]:
    """Create the topics; return the names of those made (not of one that another process made first)."""
    created: list[str] = []
    if not topics:
        return created
    for name, future in admin.create_topics(topics, operation_timeout=_TIMEOUT_SECONDS).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.code() in _REFUSALS:
                message = f"the broker refuses the topic {name!r} ({describe_error(error)})"
                raise ConfigError(message, _REFUSALS[error.code()]) from None
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise explain(exception) from None
    return created


def _wait_for_leaders(admin: AdminClient, names: list[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        there = _shapes(admin)
        waiting = [name for name in names if name not in there or not there[name].has_leaders]
        if not waiting:
            return
        if time.monotonic() > deadline:
            message = f"the topic {waiting[0]!r} has partitions without a leader"
            raise ServiceUnavailableError(message, "look at the brokers' logs")
        time.sleep(0.1)


def _describe(admin: AdminClient, names: Mapping[Role, str]) -> dict[Role, Topic]:
    """Return the topics that exist, with their settings."""
    shapes = _shapes(admin)
    topics: dict[Role, Topic] = {}
    for role, name in names.items():
        if name not in shapes:
            continue
        resource = ConfigResource(ResourceType.TOPIC, name)
        settings: dict[str, str] = {}
        reason = "it sent none"
        try:
            entries = admin.describe_configs([resource], request_timeout=CONNECT_TIMEOUT_SECONDS)[
                resource
            ].result()
            settings = {key: entry.value for key, entry in entries.items() if entry.value is not None}
        except KafkaException as error:
            # A broker that answers but won't tell (ACLs, an older protocol) is no reason to give up.
            reason = describe_error(error.args[0])
        shape = shapes[name]
        topics[role] = Topic(name, shape.partitions, shape.replicas, settings or None, reason)
    return topics
