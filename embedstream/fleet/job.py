"""What Kafka knows of the job that a fleet works at."""

from __future__ import annotations

from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import GroupOffsets
from embedstream.settings import Settings

__all__ = ["KafkaJob"]


class KafkaJob:
    """Asked by the machine that watches; the targets are the ends of the documents at the first question."""

    def __init__(self, settings: Settings) -> None:
        """Connects at the first question."""
        self._settings = settings
        self._drained: object = None

    def is_drained(self) -> bool:
        """Whether the group has committed everything that was there at the first question.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: The brokers refuse this user, or there is no such topic.
        """
        from consumer.drained import Drained

        if not isinstance(self._drained, Drained):
            kafka = self._settings.kafka
            self._drained = Drained(make_admin(kafka), kafka, self._settings.consumer.group)
        return self._drained.is_reached()

    def progress(self) -> int:
        """The sum of the group's committed offsets.

        Raises:
            ServiceUnavailableError: No broker answers.
        """
        kafka = self._settings.kafka
        partitions = range(topic_partitions(make_admin(kafka), kafka.documents_topic))
        with GroupOffsets(kafka, self._settings.consumer.group) as offsets:
            return sum(each.offset for each in offsets.read(kafka.documents_topic, partitions).values())
