"""What must hold before a daemon joins: what the topics hold is of this very model, and of these documents.

A daemon that started wrongly would not fail: it would fill the output with vectors that can't be compared,
embed everything a second time, or leave out what it takes for done. So it refuses, with what to do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.lineage import refuse_lost_output, refuse_misplaced_output, refuse_other_input
from consumer.outbound import OutputLayout
from consumer.position import END_LOOKS, LOOK_SECONDS, refuse_beyond, refuse_expired
from consumer.tail import Range, Written, newest_written
from consumer.topics import Topics
from embedstream.errors import ConfigError
from embedstream.kafka import explain, make_consumer
from embedstream.logs import get_logger
from embedstream.offsets import GroupOffsets, committed_offsets, end_offsets, start_offsets
from embedstream.settings import Settings

__all__ = ["admit"]

# Offsets are committed right after output in at-least-once mode: a look in between sees output without them.
LOOKS = 3
METADATA_SECONDS = 10.0

_log = get_logger("admission")


def admit(
    admin: AdminClient,
    settings: Settings,
    topics: Topics,
    fingerprint: str,
    earlier: Sequence[str] = (),
) -> Mapping[int, int]:
    """Checks that group and output belong to the model and the documents, and that no offset was forgotten.

    Args:
        admin: of the cluster.
        settings: of the daemon.
        topics: the three.
        fingerprint: of the model.
        earlier: what that was under each earlier version of the splitter.

    Returns:
        Of each partition whose committed offset names no model, since somebody chose it: that offset.

    Raises:
        ConfigError: another model's group or output; a topic that was made again; offsets that the broker has
            forgotten, unless `consumer.recover_offsets` is set; a committed offset that the topic does not
            hold, unless its records expired and `consumer.expired_offsets` is "skip".
        ServiceUnavailableError: no broker answers.
    """
    # The end of a partition is told when a fetch comes back empty, which a broker delays by half a second.
    reader = make_consumer(
        settings.kafka, group_id=f"{settings.consumer.group}.admission", fetch_wait_max_ms=10
    )
    try:
        with closing(reader):
            committed = _admit(admin, reader, settings, topics, _Model(fingerprint, earlier))
    except KafkaException as exception:
        raise explain(exception) from None
    return {partition: each.offset for partition, each in committed.items() if not each.metadata}


class _Model(NamedTuple):
    fingerprint: str
    earlier: Sequence[str]


def _admit(
    admin: AdminClient, reader: Consumer, settings: Settings, topics: Topics, model: _Model
) -> Mapping[int, TopicPartition]:
    kafka, group, layout = settings.kafka, settings.consumer.group, topics.layout
    topic, partitions = kafka.documents_topic, range(topics.documents_partitions)
    # The client waits for up to a second before it looks for the leader of a topic that it has not heard of.
    reader.list_topics(timeout=METADATA_SECONDS)
    starts = start_offsets(admin, topic, partitions)
    committed = committed_offsets(kafka, group, topic, partitions)
    forgotten: list[TopicPartition] = []
    for look in range(LOOKS):
        if look:
            time.sleep(1.0)
        before, missing = committed, set(partitions) - set(committed)
        embeddings, dead_letters = _written(admin, reader, topic, layout, missing)
        written = [*embeddings, *dead_letters]
        # Read again: another daemon may have committed its first window meanwhile.
        committed = committed_offsets(kafka, group, topic, partitions)
        ends = _ends(admin, topic, partitions, committed, written)
        refuse_other_input(reader, topic, written, starts, ends)
        refuse_misplaced_output(embeddings, layout.embeddings_topic, layout.embeddings_partitions)
        _refuse_other_model(settings, committed, written, model)
        forgotten = _forgotten(committed, written, missing, topic)
        if not forgotten:
            break
    if forgotten:
        _recover(settings, forgotten, model.fingerprint)
    if not any(end_offsets(admin, layout.embeddings_topic, range(layout.embeddings_partitions)).values()):
        refuse_lost_output(reader, topic, layout, before, dead_letters, starts)
    _refuse_out_of_range(settings, committed, starts, ends)
    return committed


def _refuse_other_model(
    settings: Settings, committed: Mapping[int, TopicPartition], written: list[Written], model: _Model
) -> None:
    group, topic = settings.consumer.group, settings.kafka.embeddings_topic
    found = [(each.metadata, f"consumer.group {group!r} belongs to") for each in committed.values()]
    found += [(each.fingerprint, f"kafka.embeddings_topic {topic!r} holds vectors of") for each in written]
    for other, whose in found:
        if not other or other == model.fingerprint:
            continue
        if other in model.earlier:
            version = model.earlier.index(other) + 1
            raise ConfigError(
                f"{whose} {settings.encoder.model!r} as it was split before an upgrade (fingerprint {other},"
                f" splitter {version}), and this release cuts passages otherwise (fingerprint"
                f" {model.fingerprint}, splitter {len(model.earlier) + 1})",
                "embed the documents again with `embedstream replay` and then `embedstream cutover`,"
                " or stay with the release before",
            )
        raise ConfigError(
            f"{whose} a model with fingerprint {other}, and encoder.model {settings.encoder.model!r} has"
            f" {model.fingerprint}",
            "use another group and embeddings topic for another model (`embedstream replay` does)",
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


def _refuse_out_of_range(
    settings: Settings,
    committed: Mapping[int, TopicPartition],
    starts: Mapping[int, int],
    ends: Mapping[int, int],
) -> None:
    topic, group = settings.kafka.documents_topic, settings.consumer.group
    for partition, each in sorted(committed.items()):
        if each.offset > ends[partition]:
            refuse_beyond(topic, partition, each.offset, ends[partition], group)
        if each.offset < starts[partition] and settings.consumer.expired_offsets == "stop":
            refuse_expired(topic, partition, each.offset, starts[partition], group)


def _ends(
    admin: AdminClient,
    topic: str,
    partitions: range,
    committed: Mapping[int, TopicPartition],
    written: Sequence[Written],
) -> dict[int, int]:
    """The high watermark of each partition; looked at again where it lies before what was read of it.

    A broker that comes back believes for a moment that it leads what it led, and tells the end of then.
    """
    reached = [(partition, each.offset) for partition, each in committed.items()]
    reached += [(each.source.partition, each.source.offset + 1) for each in written]
    ends = end_offsets(admin, topic, partitions)
    for _ in range(END_LOOKS):
        if all(ends.get(partition, 0) >= offset for partition, offset in reached):
            break
        time.sleep(LOOK_SECONDS)
        ends = end_offsets(admin, topic, partitions)
    return ends


def _written(
    admin: AdminClient, reader: Consumer, documents: str, layout: OutputLayout, missing: set[int]
) -> tuple[list[Written], list[Written]]:
    """The newest output of each partition, and of each input partition that has no committed offset."""
    embeddings, dead_letters = (
        newest_written(reader, topic, _bounds(admin, topic, range(count)), documents, missing)
        for topic, count in (
            (layout.embeddings_topic, layout.embeddings_partitions),
            (layout.dead_letters_topic, layout.dead_letters_partitions),
        )
    )
    return embeddings, dead_letters


def _bounds(admin: AdminClient, topic: str, partitions: range) -> dict[int, Range]:
    starts = start_offsets(admin, topic, partitions)
    ends = end_offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
    return {partition: (starts[partition], ends[partition]) for partition in partitions}
