"""Assigned partitions of which nothing has come yet, not even that they are empty.

The client asks for the committed offsets of all new partitions at once, and while one of them is pending in a
transaction, it waits with all. That lasts no longer than the transaction's time-out, unless nobody ends it.
Here they are told and no more: to begin the others by assigning them anew makes librdkafka 2.16 begin the one
that is pending as well, at the beginning, and its records come twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from confluent_kafka import Consumer, KafkaException, TopicPartition

from embedstream.logs import get_logger

__all__ = ["OFFSET_SECONDS", "PENDING_MEND", "SilentPartitions"]

OFFSET_SECONDS = 2.0
# After so long the poll thread does its other duties before it asks for more.
LOOK_SECONDS = 2.0
PENDING_MEND = (
    "if this stays, a transaction is pending that nobody ends: look with Kafka's kafka-transactions.sh"
    " find-hanging, and see `abort` there"
)

Partition = tuple[str, int]

_log = get_logger("poll")


class SilentPartitions:
    """For the poll thread: who has been silent, and since when."""

    def __init__(self, patience: float) -> None:
        """There are none.

        Args:
            patience: seconds that a partition's committed offset may take to come.
        """
        self._patience = patience
        self._since: dict[Partition, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """From now on something should come of them."""
        self._since |= dict.fromkeys(partitions, time.monotonic())

    def gone(self, partitions: Iterable[Partition]) -> None:
        """Something has come of them, or they are another's."""
        for each in partitions:
            self._since.pop(each, None)

    def look(self, consumer: Consumer, paused: Collection[Partition]) -> None:
        """Asks for the offsets of partitions whose patience is over, one by one, and says which don't come.

        Args:
            consumer: owns them.
            paused: nothing can come of these.
        """
        now = time.monotonic()
        self._since.update(dict.fromkeys(self._since.keys() & paused, now))
        pending = []
        for each in sorted(each for each, since in self._since.items() if now - since > self._patience):
            self._since[each] = now
            try:
                (found,) = consumer.committed([TopicPartition(*each)], timeout=OFFSET_SECONDS)
                if found.error is not None:
                    raise KafkaException(found.error)
            except KafkaException:
                pending.append(each[1])
            if time.monotonic() - now > LOOK_SECONDS:
                break
        if pending:
            _log.warning("partitions_without_offset", partitions=pending, mend=PENDING_MEND)
