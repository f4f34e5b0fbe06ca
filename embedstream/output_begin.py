"""How an embeddings topic begins: of which model, and with which record of each input partition."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing

from confluent_kafka import IsolationLevel, Message
from confluent_kafka.admin import AdminClient

from embedstream.kafka import topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import message_headers, read_partition
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source
from schemas.records import SourcePosition
from schemas.wire import EmbeddingFields, WireError, decode_embedding_fields

__all__ = ["first_embedding", "first_sources", "records_of"]


def first_embedding(admin: AdminClient, kafka: KafkaSettings) -> EmbeddingFields | None:
    """Return an embedding that the topic begins with, without its vector; None where it holds none.

    Raises:
        ConfigError: The topic does not exist.
        ServiceUnavailableError: No broker answers.
    """
    topic = kafka.embeddings_topic
    for partition in range(topic_partitions(admin, topic, "kafka.embeddings_topic")):
        with closing(records_of(admin, kafka, topic, partition)) as messages:
            for message in messages:
                try:
                    return decode_embedding_fields(message.value() or b"")
                except WireError:
                    continue
    return None


def first_sources(admin: AdminClient, kafka: KafkaSettings, inputs: int) -> Mapping[int, int]:
    """Return the lowest offset of each input partition that has embeddings, a deletion or a dead letter.

    Output lies in the order of its input, so the first record of each input partition tells. An input
    partition that has a partition of the output to itself costs one record; one that shares it and has
    nothing in it costs the whole of that.

    Args:
        admin: Of the cluster.
        kafka: Names the topics.
        inputs: How many partitions the documents have.

    Raises:
        ConfigError: A topic does not exist.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    found: dict[int, int] = {}
    for topic, setting in (
        (kafka.embeddings_topic, "kafka.embeddings_topic"),
        (kafka.dead_letters_topic, "kafka.dead_letters_topic"),
    ):
        count = topic_partitions(admin, topic, setting)
        for partition in range(count):
            waiting = {each for each in range(inputs) if each % count == partition}
            with closing(records_of(admin, kafka, topic, partition)) as messages:
                for message in messages:
                    if not waiting:
                        break
                    source = _source(message)
                    if source is None or source.topic != kafka.documents_topic:
                        continue
                    if source.partition in waiting:
                        waiting.discard(source.partition)
                        lowest = found.get(source.partition, source.offset)
                        found[source.partition] = min(lowest, source.offset)
    return found


def records_of(admin: AdminClient, kafka: KafkaSettings, topic: str, partition: int) -> Generator[Message]:
    """Yield the committed records that a partition holds by now."""
    start = start_offsets(admin, topic, [partition])[partition]
    end = end_offsets(admin, topic, [partition], IsolationLevel.READ_COMMITTED)[partition]
    return read_partition(kafka, topic, partition, start=start, end=end)


def _source(message: Message) -> SourcePosition | None:
    headers, value = message_headers(message), message.value()
    try:
        return DeadLetter.from_headers(headers).source
    except ValueError:
        pass
    if value is None:
        return deletion_source(headers)
    try:
        return SourcePosition(**decode_embedding_fields(value)["source"])
    except WireError:
        return None
