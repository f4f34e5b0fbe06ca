"""What Kafka knows of the job that a fleet works at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import GroupOffsets
from embedstream.settings import Settings

if TYPE_CHECKING:
    from consumer.drained import Drained

__all__ = ["KafkaJob"]


class KafkaJob:
    """Asked by the machine that watches; the targets are the ends of the documents at the first question."""

    def __init__(self, settings: Settings) -> None:
        """Connects at the first question."""
        self._kafka, self._group = settings.kafka, settings.consumer.group
        self._admin = make_admin(self._kafka)
        self._drained: Drained | None = None

    def is_drained(self) -> bool:
        """Whether the group has committed everything that was there at the first question.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: The brokers refuse this user, or there is no such topic.
        """
        from consumer.drained import Drained

        if self._drained is None:
            self._drained = Drained(self._admin, self._kafka, self._group)
        return self._drained.is_reached()

    def progress(self) -> int:
        """The sum of the group's committed offsets.

        Raises:
            ServiceUnavailableError: No broker answers.
        """
        topic = self._kafka.documents_topic
        partitions = range(topic_partitions(self._admin, topic))
        with GroupOffsets(self._kafka, self._group) as offsets:
            return sum(each.offset for each in offsets.read(topic, partitions).values())
