"""What must hold before a daemon joins: the topics fit, and what they hold is of this very model.

A daemon that started wrongly would not fail: it would fill the output with vectors that can't be compared, or
embed everything a second time. So it refuses, with what to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from consumer.outbound import OutputLayout
from consumer.tail import Written, newest_written
from embedstream.errors import ConfigError
from embedstream.kafka import explain, make_consumer, topic_partitions
from embedstream.logs import get_logger
from embedstream.offsets import GroupOffsets, committed_offsets, start_offsets
from embedstream.settings import KafkaSettings, Settings

__all__ = ["admit", "read_layout"]

# Kafka's default for max.message.bytes; assumed where a broker does not tell.
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
READ_SECONDS = 10.0
# Offsets are committed right after output in at-least-once mode: a look in between sees output without them.
LOOKS = 3

_log = get_logger("admission")


def read_layout(admin: AdminClient, kafka: KafkaSettings) -> OutputLayout:
    """Looks at the three topics.

    Raises:
        ConfigError: a topic is missing, or an output topic has fewer partitions than the documents.
        ServiceUnavailableError: no broker answers.
    """
    documents = topic_partitions(admin, kafka.documents_topic, "kafka.documents_topic")
    embeddings = topic_partitions(admin, kafka.embeddings_topic, "kafka.embeddings_topic")
    dead_letters = topic_partitions(admin, kafka.dead_letters_topic, "kafka.dead_letters_topic")
    if dead_letters < documents:
        raise ConfigError(
            f"kafka.dead_letters_topic {kafka.dead_letters_topic!r} has too few partitions ({dead_letters}"
            f" for the {documents} of {kafka.documents_topic!r})",
            f"make it with `embedstream topics create --partitions {documents}`, or add partitions to it",
        )
    limits = _max_message_bytes(admin, [kafka.embeddings_topic, kafka.dead_letters_topic])
    return OutputLayout(
        kafka.embeddings_topic,
        embeddings,
        limits[kafka.embeddings_topic],
        kafka.dead_letters_topic,
        dead_letters,
        limits[kafka.dead_letters_topic],
    )


def admit(admin: AdminClient, settings: Settings, layout: OutputLayout, fingerprint: str) -> None:
    """Checks that the group and the output belong to the model, and that no offset was forgotten.

    Raises:
        ConfigError: another model's group or output; offsets that the broker has forgotten, unless
            `consumer.recover_offsets` is set; a committed offset below the retained log.
    """
    kafka, group = settings.kafka, settings.consumer.group
    partitions = range(topic_partitions(admin, kafka.documents_topic))
    committed = committed_offsets(kafka, group, kafka.documents_topic, partitions)
    forgotten: list[TopicPartition] = []
    for look in range(LOOKS):
        if look:
            time.sleep(1.0)
        missing = set(partitions) - set(committed)
        written = _written(settings, layout, missing)
        # Read again: another daemon may have committed its first window meanwhile.
        committed = committed_offsets(kafka, group, kafka.documents_topic, partitions)
        _refuse_other_model(settings, committed, written, fingerprint)
        forgotten = _forgotten(committed, written, missing, kafka.documents_topic)
        if not forgotten:
            break
    if forgotten:
        _recover(settings, forgotten, fingerprint)
    _refuse_expired(admin, settings, committed, partitions)


def _refuse_other_model(
    settings: Settings, committed: Mapping[int, TopicPartition], written: list[Written], fingerprint: str
) -> None:
    mend = "use another group and embeddings topic for another model (`embedstream replay` does)"
    for each in committed.values():
        if each.metadata and each.metadata != fingerprint:
            raise ConfigError(
                f"consumer.group {settings.consumer.group!r} belongs to a model with fingerprint"
                f" {each.metadata}, and encoder.model {settings.encoder.model!r} has {fingerprint}",
                mend,
            )
    for output in written:
        if output.fingerprint is not None and output.fingerprint != fingerprint:
            raise ConfigError(
                f"kafka.embeddings_topic {settings.kafka.embeddings_topic!r} holds vectors of a model with"
                f" fingerprint {output.fingerprint}, and encoder.model {settings.encoder.model!r} has"
                f" {fingerprint}",
                mend,
            )


def _forgotten(
    committed: Mapping[int, TopicPartition], written: list[Written], missing: set[int], topic: str
) -> list[TopicPartition]:
    """Where to go on in each partition that has output but no committed offset."""
    newest: dict[int, int] = {}
    for each in written:
        source = each.source
        if source.partition in missing and source.partition not in committed:
            newest[source.partition] = max(newest.get(source.partition, 0), source.offset)
    return [TopicPartition(topic, partition, offset + 1) for partition, offset in sorted(newest.items())]


def _recover(settings: Settings, forgotten: list[TopicPartition], fingerprint: str) -> None:
    group = settings.consumer.group
    if not settings.consumer.recover_offsets:
        partitions = ", ".join(str(each.partition) for each in forgotten)
        raise ConfigError(
            f"consumer.group {group!r} has no committed offset for partition {partitions} of"
            f" {settings.kafka.documents_topic!r}, but {settings.kafka.embeddings_topic!r} already holds its"
            " embeddings",
            "start with --recover-offsets to go on where the output ends (or name another group and topic)",
        )
    offsets = [TopicPartition(each.topic, each.partition, each.offset, fingerprint) for each in forgotten]
    with GroupOffsets(settings.kafka, group) as group_offsets:
        group_offsets.write(offsets)
    _log.info("offsets_recovered", offsets={each.partition: each.offset for each in offsets})


def _refuse_expired(
    admin: AdminClient,
    settings: Settings,
    committed: Mapping[int, TopicPartition],
    partitions: Iterable[int],
) -> None:
    topic = settings.kafka.documents_topic
    starts = start_offsets(admin, topic, partitions)
    for partition, each in sorted(committed.items()):
        if each.offset < starts[partition]:
            raise ConfigError(
                f"{topic!r} partition {partition} starts at {starts[partition]}, after the committed offset"
                f" {each.offset} of consumer.group {settings.consumer.group!r}: records were deleted unread",
                "send them again with `embedstream produce`, and reset the group's offsets or name another",
            )


def _written(settings: Settings, layout: OutputLayout, missing: set[int]) -> list[Written]:
    """The newest output of each partition, and of each input partition that has no committed offset."""
    # The end of a partition is told when a fetch comes back empty, which a broker delays by half a second.
    group = f"{settings.consumer.group}.admission"
    consumer = make_consumer(settings.kafka, group_id=group, fetch_wait_max_ms=10)
    documents = settings.kafka.documents_topic
    found: list[Written] = []
    try:
        for topic, count in (
            (layout.embeddings_topic, layout.embeddings_partitions),
            (layout.dead_letters_topic, layout.dead_letters_partitions),
        ):
            for partition in range(count):
                inputs = {each for each in missing if each % count == partition}
                found += newest_written(consumer, topic, partition, documents, inputs)
    except KafkaException as exception:
        raise explain(exception) from None
    finally:
        consumer.close()
    return found


def _max_message_bytes(admin: AdminClient, topics: list[str]) -> dict[str, int]:
    """The largest record batch that each topic takes, in bytes."""
    resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
    limits = dict.fromkeys(topics, DEFAULT_MAX_MESSAGE_BYTES)
    futures = admin.describe_configs(list(resources.values()), request_timeout=READ_SECONDS)
    for topic, resource in resources.items():
        try:
            entry = futures[resource].result().get("max.message.bytes")
            if entry is not None and entry.value is not None:
                limits[topic] = int(entry.value)
        except (KafkaException, ValueError):
            _log.info("topic_settings_unknown", topic=topic, assumed_max_message_bytes=limits[topic])
    return limits
