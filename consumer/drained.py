"""Whether a job is done: each partition of the documents committed up to where it ended at the start."""

from __future__ import annotations

from confluent_kafka import IsolationLevel
from confluent_kafka.admin import AdminClient

from embedstream.errors import ServiceUnavailableError
from embedstream.kafka import topic_partitions
from embedstream.offsets import GroupOffsets, end_offsets, start_offsets
from embedstream.settings import KafkaSettings

__all__ = ["Drained"]


class Drained:
    """The targets of a job, frozen when it is made.

    All partitions count, whoever reads them, so that a daemon without any can end too. It has clients of its
    own, for one thread at a time.
    """

    def __init__(self, admin: AdminClient, kafka: KafkaSettings, group: str) -> None:
        """Takes today's read_committed end offsets as the targets.

        Raises:
            ServiceUnavailableError: no broker answers.
        """
        self._topic = topic = kafka.documents_topic
        self._offsets = GroupOffsets(kafka, group)
        partitions = range(topic_partitions(admin, topic))
        self._targets = end_offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
        starts = start_offsets(admin, topic, partitions)
        # A partition that holds nothing, and never will before the target, needs no commit.
        self._open = {p for p, target in self._targets.items() if starts[p] < target}

    def is_reached(self) -> bool:
        """Whether the group has committed all targets; False when the broker does not answer."""
        if not self._open:
            return True
        try:
            committed = self._offsets.read(self._topic, self._open)
        except ServiceUnavailableError:
            return False
        self._open = {p for p in self._open if p not in committed or committed[p].offset < self._targets[p]}
        return not self._open
