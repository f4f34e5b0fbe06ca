"""The newest passages of the embeddings topic as of one moment, read in two passes and little memory.

    snapshot = take_snapshot(settings.kafka)
    with NewestVersions() as newest:
        reader = SnapshotReader(settings.kafka, snapshot, newest)
        reader.choose()
        for position, embedding in reader.passages():
            print(embedding.document_id, embedding.vector)

The moment is that of the end offsets: what a read_committed reader could reach when the snapshot was taken.
The first pass finds which version of each document counts, the second yields its passages; both start again
where they were when the process died. Of vectors only those that are being looked at are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, Message
from confluent_kafka.admin import AdminClient

from embedstream.errors import ConfigError
from embedstream.kafka import CONNECT_TIMEOUT_SECONDS, explain, make_admin, topic_partitions
from embedstream.logs import get_logger
from embedstream.newest import Choice, NewestVersions, Passage
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import message_headers, read_partition
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source, deletion_version
from schemas.records import Embedding
from schemas.wire import (
    EmbeddingFields,
    WireError,
    decode_document,
    decode_embedding,
    decode_embedding_fields,
)

__all__ = ["LEFT_OUT", "Snapshot", "SnapshotReader", "take_snapshot"]

LEFT_OUT = ("repeated", "other_models", "other_topics", "unreadable")
"""Why output records are left out, beside being of an old version: the names of `NewestVersions.number`."""

_SAVE_EVERY = 20_000
_TELL_SECONDS = 10.0

Extent = Mapping[int, tuple[int, int]]
"""Of each partition the first offset, and the end: that of the last record and one."""

_log = get_logger("snapshot")


@dataclass(frozen=True)
class Snapshot:
    """What is read: one model's embeddings, from where to where.

    Attributes:
        cluster_id: Of the Kafka cluster; empty where it has none.
        embeddings: Extent of the embeddings topic.
        dead_letters: Extent of the dead-letters topic.
        taken_at: When the end offsets were asked for, milliseconds since the epoch.
    """

    cluster_id: str
    documents_topic: str
    embeddings_topic: str
    dead_letters_topic: str
    model: str
    model_fingerprint: str
    dim: int
    embeddings: Extent
    dead_letters: Extent
    taken_at: int


def take_snapshot(kafka: KafkaSettings, model_fingerprint: str | None = None) -> Snapshot:
    """Freeze how far the topics go.

    Args:
        kafka: Names the brokers and the topics.
        model_fingerprint: Whose embeddings are meant; None takes those of the topic's one model.

    Raises:
        ConfigError: A topic does not exist, or holds no such embeddings.
        ServiceUnavailableError: No broker answers.
    """
    admin = make_admin(kafka)
    now = int(time.time() * 1000)
    embeddings = _extent(admin, kafka.embeddings_topic, "kafka.embeddings_topic")
    dead_letters = _extent(admin, kafka.dead_letters_topic, "kafka.dead_letters_topic")
    first = _first_embedding(kafka, embeddings, model_fingerprint)
    return Snapshot(
        cluster_id=_cluster_id(admin),
        documents_topic=kafka.documents_topic,
        embeddings_topic=kafka.embeddings_topic,
        dead_letters_topic=kafka.dead_letters_topic,
        model=first["model"],
        model_fingerprint=first["model_fingerprint"],
        dim=first["dim"],
        embeddings=embeddings,
        dead_letters=dead_letters,
        taken_at=now,
    )


class SnapshotReader:
    """Reads what a snapshot froze."""

    def __init__(
        self,
        kafka: KafkaSettings,
        snapshot: Snapshot,
        newest: NewestVersions,
        *,
        is_only_model: bool = True,
    ) -> None:
        """Nothing is read yet.

        Args:
            kafka: How to connect.
            snapshot: What to read; its topics count, not those of `kafka`.
            newest: Where the first pass keeps what it finds; one that was saved is gone on with.
            is_only_model: Whether embeddings of another model are an error, because nobody chose one.

        Raises:
            ConfigError: The cluster is another than when the snapshot was taken.
            ServiceUnavailableError: No broker answers.
        """
        self._kafka = kafka
        self._snapshot = snapshot
        self._newest = newest
        self._is_only_model = is_only_model
        self._admin = make_admin(kafka)
        if _cluster_id(self._admin) != snapshot.cluster_id:
            raise _another(f"{kafka.bootstrap_servers} is not the cluster")
        self._told = time.monotonic()

    def choose(self) -> Choice:
        """Read both topics once, from where an earlier reader stopped, and choose the versions that count.

        Raises:
            ConfigError: A topic is another than when the snapshot was taken, or holds several models.
            ServiceUnavailableError: No broker answers.
            TryAgainError: A transaction stayed open.
            sqlite3.Error: What was found can't be kept.
        """
        snapshot = self._snapshot
        for topic, extent, take in (
            (snapshot.embeddings_topic, snapshot.embeddings, self._take_output),
            (snapshot.dead_letters_topic, snapshot.dead_letters, self._take_dead_letter),
        ):
            for partition, (start, end) in sorted(extent.items()):
                self._scan(topic, partition, start, end, take)
        return self._newest.choose()

    def passages(self, partition: int = 0, offset: int = 0) -> Iterator[tuple[tuple[int, int], Embedding]]:
        """Yield the passages that count, with the partition and offset of each in the embeddings topic.

        They come partition by partition in the order of their offsets, each once. `choose` has to come first.

        Args:
            partition: Where to begin.
            offset: Where to begin in that partition.

        Raises:
            ConfigError, ServiceUnavailableError, TryAgainError: As `choose` does.
        """
        for each, (start, end) in sorted(self._snapshot.embeddings.items()):
            if each >= partition:
                yield from self._chosen(each, max(start, offset) if each == partition else start, end)

    def left_out(self) -> dict[str, int]:
        """Return how many output records the first pass left out, by the names of `LEFT_OUT`."""
        return {name: self._newest.number(name) for name in LEFT_OUT}

    def _chosen(self, partition: int, start: int, end: int) -> Iterator[tuple[tuple[int, int], Embedding]]:
        snapshot, newest = self._snapshot, self._newest
        repeats = newest.repeats(partition, start)
        repeat = next(repeats, None)
        # One answer for all passages of a record: they lie together, but for those of other input partitions.
        known: dict[int, tuple[int, bool]] = {}
        with closing(self._read(snapshot.embeddings_topic, partition, start, end)) as messages:
            for message in messages:
                value, offset = message.value(), message.offset() or 0
                if offset == repeat:
                    repeat = next(repeats, None)
                    continue
                try:
                    embedding = None if value is None else decode_embedding(value)
                except WireError:
                    continue
                if (
                    embedding is None
                    or embedding.model_fingerprint != snapshot.model_fingerprint
                    or embedding.source.topic != snapshot.documents_topic
                ):
                    continue
                source = embedding.source
                if known.get(source.partition, (-1, False))[0] != source.offset:
                    is_chosen = newest.is_chosen((source.partition, source.offset))
                    known[source.partition] = (source.offset, is_chosen)
                if known[source.partition][1]:
                    yield (partition, offset), embedding

    def _scan(
        self, topic: str, partition: int, start: int, end: int, take: Callable[[Message], None]
    ) -> None:
        """Read what is left of a partition, and save now and then how far it got."""
        name = f"read {topic}/{partition}"
        position = self._newest.number(name, start)
        with closing(self._read(topic, partition, position, end)) as messages:
            for count, message in enumerate(messages, 1):
                take(message)
                if count % _SAVE_EVERY == 0:
                    self._newest.set_number(name, (message.offset() or 0) + 1)
                    self._newest.save()
                    self._tell(topic, partition, message.offset() or 0, end)
        self._newest.set_number(name, end)
        self._newest.save()

    def _take_output(self, message: Message) -> None:
        value, key = message.value(), message.key()
        if value is None:
            headers = message_headers(message)
            source, version = deletion_source(headers), deletion_version(headers)
            if source is None or version is None or key is None:
                self._newest.add_number("unreadable", 1)
            elif source.topic == self._snapshot.documents_topic:
                self._newest.add_deletion(key.decode(errors="replace"), version, source.offset)
            return
        try:
            fields = decode_embedding_fields(value)
        except WireError:
            self._newest.add_number("unreadable", 1)
            return
        if fields["model_fingerprint"] != self._snapshot.model_fingerprint:
            if self._is_only_model:
                raise self._several_models(fields)
            self._newest.add_number("other_models", 1)
        elif fields["source"]["topic"] != self._snapshot.documents_topic:
            self._newest.add_number("other_topics", 1)
        elif not self._newest.add_passage(_passage(fields)):
            self._newest.add_repeat((message.partition() or 0, message.offset() or 0))
            self._newest.add_number("repeated", 1)

    def _take_dead_letter(self, message: Message) -> None:
        try:
            letter = DeadLetter.from_headers(message_headers(message))
        except ValueError:
            self._newest.add_number("unreadable", 1)
            return
        source = letter.source
        if (
            letter.model_fingerprint != self._snapshot.model_fingerprint
            or source.topic != self._snapshot.documents_topic
            or letter.document_id is None
            or letter.document_version is None
        ):
            return
        try:
            segment = decode_document(message.value() or b"").segment.index
        except WireError:
            # Its value was too large to be kept.
            segment = None
        at = (source.partition, source.offset)
        self._newest.add_dead_letter(letter.document_id, letter.document_version, segment, at)

    def _read(self, topic: str, partition: int, start: int, end: int) -> Generator[Message]:
        """Yield the records of a stretch, all of which must still be there."""
        if start >= end:
            return
        high = end_offsets(self._admin, topic, [partition])[partition]
        if high < end:
            raise _another(f"{topic} is not the topic")
        messages = read_partition(self._kafka, topic, partition, start=start, end=end)
        with closing(messages):
            yield from messages
        # Asked afterwards: a client whose offset has expired goes on at the oldest record without a word.
        oldest = start_offsets(self._admin, topic, [partition])[partition]
        if oldest > start:
            raise ConfigError(
                f"{topic}/{partition} has dropped its records before offset {oldest} while it was read",
                "let the topic keep everything (`embedstream topics check`), and start anew",
            )

    def _several_models(self, fields: EmbeddingFields) -> ConfigError:
        snapshot = self._snapshot
        return ConfigError(
            f"{snapshot.embeddings_topic} holds embeddings of several models:"
            f" {snapshot.model} ({snapshot.model_fingerprint}),"
            f" {fields['model']} ({fields['model_fingerprint']})",
            "name one with --fingerprint",
        )

    def _tell(self, topic: str, partition: int, offset: int, end: int) -> None:
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            _log.info("choosing_versions", topic=topic, partition=partition, offset=offset, end=end)


def _another(what: str) -> ConfigError:
    return ConfigError(f"{what} that this was begun with", "start anew, into another place")


def _cluster_id(admin: AdminClient) -> str:
    """Return the cluster's id, or an empty string where the broker tells none."""
    try:
        return admin.list_topics(timeout=CONNECT_TIMEOUT_SECONDS).cluster_id or ""
    except KafkaException as error:
        raise explain(error) from None


def _extent(admin: AdminClient, topic: str, setting: str) -> Extent:
    partitions = range(topic_partitions(admin, topic, setting))
    starts = start_offsets(admin, topic, partitions)
    ends = end_offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
    return {each: (starts[each], ends[each]) for each in partitions}


def _first_embedding(kafka: KafkaSettings, extent: Extent, fingerprint: str | None) -> EmbeddingFields:
    """Return the first embedding of a model, or of any, without its vector."""
    topic = kafka.embeddings_topic
    for partition, (start, end) in sorted(extent.items()):
        with closing(read_partition(kafka, topic, partition, start=start, end=end)) as messages:
            for message in messages:
                try:
                    fields = decode_embedding_fields(message.value() or b"")
                except WireError:
                    continue
                if fingerprint in (None, fields["model_fingerprint"]):
                    return fields
    if fingerprint is None:
        raise ConfigError(f"{topic} holds no embeddings", "embed something with `embedstream consume`")
    raise ConfigError(
        f"{topic} holds no embeddings of the model fingerprint {fingerprint}",
        "`embedstream verify` names those that it holds",
    )


def _passage(fields: EmbeddingFields) -> Passage:
    source, segment, passage = fields["source"], fields["segment"], fields["passage"]
    return Passage(
        fields["document_id"],
        fields["document_version"],
        (source["partition"], source["offset"]),
        (segment["index"], segment["count"]),
        (passage["index"], passage["count"]),
    )
