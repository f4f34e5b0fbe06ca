"""The three topics as the daemon found them, looked at again before every window is delivered.

Kafka addresses records and offsets by a topic's name: one that is deleted and made again under a running
daemon would be read on at the old topic's offset, or written to as if it still held what was delivered. Its
id tells. The ids never come back, and the look begins after the window's last record was read: so all of a
window that passes was read from the topic of the start.
"""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)

from consumer.outbound import OutputLayout
from embedstream.errors import ConfigError
from embedstream.kafka import all_topics, explain
from embedstream.logs import get_logger
from embedstream.settings import KafkaSettings
from embedstream.topic_rules import Tools
from schemas.embedding_writer import SINGLE_OBJECT_HEADER

__all__ = ["MESSAGE_MAX_BYTES", "NEW_INPUT_MEND", "NEW_OUTPUT_MEND", "Topics"]

NEW_INPUT_MEND = (
    "give the new documents a group and output topics of their own (--group, --embeddings-topic,"
    " --dead-letters-topic), or make the output topics anew as well"
)
NEW_OUTPUT_MEND = "to embed the documents again, name another --group"

# Kafka's default for max.message.bytes; assumed where a broker does not tell.
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
# The largest record that our own producer takes, whatever a topic does: dead letters carry up to 4 MiB.
MESSAGE_MAX_BYTES = 8 * 1024 * 1024
REQUEST_SECONDS = 5.0

_log = get_logger("topics")


@dataclass(frozen=True, slots=True)
class _Topic:
    setting: str
    name: str
    id: str
    partitions: int


class Topics:
    """What must not change while the daemon runs, and the layout of the output. For one thread at a time.

    Attributes:
        embeddings_header: What the values of embeddings are to begin with.
    """

    def __init__(self, admin: AdminClient, kafka: KafkaSettings) -> None:
        """Looks at the topics.

        Raises:
            ConfigError: a topic is missing, or there are fewer partitions of dead letters than of documents.
            ServiceUnavailableError: no broker answers.
        """
        self._admin = admin
        self._kafka = kafka
        # Says at once where a broker refuses this user, or no broker answers.
        all_topics(admin)
        self.embeddings_header = SINGLE_OBJECT_HEADER
        self._documents, self._embeddings, self._dead_letters = self._described()
        documents, dead_letters = self._documents, self._dead_letters
        if dead_letters.partitions < documents.partitions:
            raise ConfigError(
                f"kafka.dead_letters_topic {dead_letters.name!r} has too few partitions"
                f" ({dead_letters.partitions} for the {documents.partitions} of {documents.name!r})",
                f"make it with `embedstream topics create --partitions {documents.partitions}`,"
                " or add partitions to it",
            )
        self._limits = self._max_message_bytes()

    @property
    def documents_partitions(self) -> int:
        """How many partitions the documents have."""
        return self._documents.partitions

    @property
    def layout(self) -> OutputLayout:
        """Where output goes, as of the last look."""
        embeddings, dead_letters = self._embeddings, self._dead_letters
        return OutputLayout(
            embeddings.name,
            embeddings.partitions,
            self._limits[embeddings.name],
            dead_letters.name,
            dead_letters.partitions,
            self._limits[dead_letters.name],
            self.embeddings_header,
        )

    def confirm(self) -> OutputLayout:
        """Looks again, takes up partitions that were added, and says where output goes.

        Raises:
            ConfigError: a topic was deleted, or made again; the documents have partitions that the output has
                no room for; or output would go to another partition than before.
            ServiceUnavailableError: no broker answers.
        """
        found = self._described()
        documents, embeddings, dead_letters = found
        for before, now in zip((self._documents, self._embeddings, self._dead_letters), found, strict=True):
            if now.id != before.id:
                raise ConfigError(
                    f"kafka.{now.setting} {now.name!r} was deleted and made again under the running daemon",
                    NEW_INPUT_MEND if now is documents else NEW_OUTPUT_MEND,
                )
        if documents.partitions > self._documents.partitions:
            self._refuse_without_room(documents, embeddings, dead_letters)
        had, has = self._embeddings.partitions, embeddings.partitions
        if any(each % had != each % has for each in range(self._documents.partitions)):
            raise ConfigError(
                f"kafka.embeddings_topic {embeddings.name!r} has {has} partitions and had {had}, so output"
                " would go to other partitions than that before it",
                "name another --embeddings-topic and --group",
            )
        self._documents, self._embeddings, self._dead_letters = found
        return self.layout

    def _refuse_without_room(self, documents: _Topic, *outputs: _Topic) -> None:
        """New input partitions get output partitions of their own, or their order is gone once these come."""
        small = [each for each in outputs if each.partitions < documents.partitions]
        if small:
            tools = Tools(self._kafka.bootstrap_servers)
            few = " and ".join(f"{each.name!r} only {each.partitions}" for each in small)
            raise ConfigError(
                f"kafka.documents_topic {documents.name!r} has {documents.partitions} partitions, and {few}",
                "add partitions, then start the daemon again: "
                + "; ".join(tools.add_partitions(each.name, documents.partitions) for each in small),
            )

    def _described(self) -> tuple[_Topic, _Topic, _Topic]:
        kafka = self._kafka
        names = {
            "documents_topic": kafka.documents_topic,
            "embeddings_topic": kafka.embeddings_topic,
            "dead_letters_topic": kafka.dead_letters_topic,
        }
        futures = self._admin.describe_topics(
            TopicCollection(list(names.values())), request_timeout=REQUEST_SECONDS
        )
        found = []
        for setting, name in names.items():
            try:
                topic = futures[name].result()
            except KafkaException as exception:
                if exception.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise ConfigError(
                        f"kafka.{setting} {name!r} does not exist", "make it with `embedstream topics create`"
                    ) from None
                raise explain(exception) from None
            found.append(_Topic(setting, name, str(topic.topic_id), len(topic.partitions)))
        documents, embeddings, dead_letters = found
        return documents, embeddings, dead_letters

    def _max_message_bytes(self) -> dict[str, int]:
        """The largest record batch that each output topic and our producer take, in bytes."""
        topics = (self._embeddings.name, self._dead_letters.name)
        resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
        limits = dict.fromkeys(topics, DEFAULT_MAX_MESSAGE_BYTES)
        futures = self._admin.describe_configs(list(resources.values()), request_timeout=REQUEST_SECONDS)
        for topic, resource in resources.items():
            try:
                entry = futures[resource].result().get("max.message.bytes")
                if entry is not None and entry.value is not None:
                    limits[topic] = min(int(entry.value), MESSAGE_MAX_BYTES)
            except (KafkaException, ValueError):
                _log.info("topic_settings_unknown", topic=topic, assumed_max_message_bytes=limits[topic])
        return limits
