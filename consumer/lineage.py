"""Whether the output is of these very documents: a topic that was made again has the old one's name.

Nobody tells the daemon when that happens while none runs. The broker forgets the offsets that were committed
for a topic that is deleted, so it looks like a group that was forgotten; the difference is in the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from consumer.outbound import OutputLayout
from consumer.tail import Written, document_version, first_record, records_at
from consumer.topics import NEW_INPUT_MEND, NEW_OUTPUT_MEND
from embedstream.errors import ConfigError

__all__ = ["refuse_lost_output", "refuse_misplaced_output", "refuse_other_input"]


def refuse_other_input(
    reader: Consumer,
    topic: str,
    written: Iterable[Written],
    starts: Mapping[int, int],
    ends: Mapping[int, int],
) -> None:
    """Compares the newest output of each input partition with the record that it says it comes from.

    Args:
        reader: assigned as it pleases.
        topic: the documents topic.
        written: the newest output.
        starts: the oldest offset of each input partition.
        ends: the high watermark of each input partition.

    Raises:
        ConfigError: there is no such record, or it is of another document.
        KafkaException: the broker does not answer.
    """
    newest: dict[int, Written] = {}
    for each in written:
        other = newest.get(each.source.partition)
        if other is None or other.source.offset < each.source.offset:
            newest[each.source.partition] = each
    told = {}
    for partition, each in sorted(newest.items()):
        offset = each.source.offset
        if offset >= ends.get(partition, 0):
            _refuse(f"{topic!r} has no record {partition}/{offset}, and there is output of it")
        if offset >= starts[partition] and each.document is not None:
            told[partition] = offset
    for partition, record in sorted(records_at(reader, topic, told).items()):
        if document_version(record) != newest[partition].document:
            _refuse(
                f"record {partition}/{told[partition]} of {topic!r} is not the one that there is output of"
            )


def refuse_misplaced_output(written: Iterable[Written], topic: str, partitions: int) -> None:
    """Refuses an embeddings topic that was given partitions after the output of others was put in its place.

    Args:
        written: the newest records of the topic.
        topic: the embeddings topic.
        partitions: how many it has.

    Raises:
        ConfigError: output of an input partition would go elsewhere than before.
    """
    for each in written:
        source = each.source.partition
        if source % partitions != each.partition:
            raise ConfigError(
                f"kafka.embeddings_topic {topic!r} has {partitions} partitions, and output of input partition"
                f" {source} in {each.partition}, where it does not belong: partitions were added",
                "name another --embeddings-topic and --group",
            )


def refuse_lost_output(
    reader: Consumer,
    topic: str,
    layout: OutputLayout,
    committed: Mapping[int, TopicPartition],
    dead_letters: Iterable[Written],
    starts: Mapping[int, int],
) -> None:
    """Refuses an embeddings topic that never held a record while this group has done some.

    Args:
        reader: assigned as it pleases.
        topic: the documents topic.
        layout: names the embeddings topic, which is empty and always was.
        committed: the group's offsets.
        dead_letters: the newest of each partition; a group that met nothing else has no embeddings.
        starts: the oldest offset of each input partition.

    Raises:
        ConfigError: a record before the committed offsets has neither embeddings nor a dead letter.
        KafkaException: the broker does not answer.
    """
    after = {each.source.partition: each.source.offset + 1 for each in dead_letters}
    for partition, each in sorted(committed.items()):
        first = max(starts[partition], after.get(partition, 0))
        # Offsets without the model's name beside them were set by somebody else, who chose where to begin.
        if each.metadata and first_record(reader, topic, partition, first, each.offset) is not None:
            raise ConfigError(
                f"kafka.embeddings_topic {layout.embeddings_topic!r} is new and empty, and the group has"
                f" committed {each.offset} for partition {partition} of {topic!r}: its output is gone",
                NEW_OUTPUT_MEND,
            )


def _refuse(found: str) -> None:
    raise ConfigError(f"{found}: the topic was made again", NEW_INPUT_MEND)
