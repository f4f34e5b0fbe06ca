"""At least once: produce, wait for every acknowledgement, commit. A death in between doubles a window.

Output in a partition that has no committed offset means offsets that were lost, and no daemon starts over it.
So where the first window of a partition begins is committed before anything is produced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from consumer.deliver import NotDelivered
from consumer.offsets import beginnings_of, offsets_of
from consumer.outbound import ItemRecords
from consumer.poll import Poller
from consumer.sending import Sending
from embedstream.kafka import describe_error

__all__ = ["PlainDelivery"]

COMMIT_SECONDS = 30.0


class PlainDelivery:
    """Delivers windows through an idempotent producer, offsets after."""

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        poller: Poller,
        *,
        fingerprint: str,
        chosen: Mapping[int, int],
    ) -> None:
        """The producer is made for the first window, and again after a failed one."""
        self._make_producer = make_producer
        self._poller = poller
        self._fingerprint = fingerprint
        self._chosen = chosen
        self._producer: Producer | None = None
        self._begun: set[int] = set()

    def prepare(self) -> None:
        """Nothing to do: there is no predecessor to fence."""

    def has_rival(self) -> bool:
        """Never: its group knows no instance ids, so that nothing can be fenced."""
        return False

    def deliver(self, items: Sequence[ItemRecords]) -> None:
        """Produces all records, waits for their reports, commits the offsets; of a new partition before, too.

        Raises:
            NotDelivered: a record was not acknowledged, or the offsets were not taken.
        """
        beginnings = beginnings_of(items, self._fingerprint, self._chosen)
        begin = [each for each in beginnings if each.partition not in self._begun]
        if begin:
            self._commit(begin)
            self._begun.update(each.partition for each in begin)
        if self._producer is None:
            self._producer = self._make_producer()
        sending = Sending(self._producer, reports=True)
        try:
            sending.send(items)
        except KafkaException as exception:
            # Broken, or it does not know yet that partitions were added: a new one does.
            self._producer = None
            raise NotDelivered(describe_error(exception.args[0])) from None
        if sending.failed is not None:
            if sending.refused is not None:
                raise sending.refused
            # Records that are still queued would come twice; with the producer they are gone.
            self._producer = None
            raise NotDelivered(describe_error(sending.failed))
        self._commit(offsets_of(items, self._fingerprint, self._chosen))

    def close(self) -> None:
        """Leaves the producer; nothing is in flight between two windows."""
        self._producer = None

    def _commit(self, offsets: Sequence[TopicPartition]) -> None:
        def commit(consumer: Consumer) -> None:
            for each in consumer.commit(offsets=list(offsets), asynchronous=False) or ():
                if each.error is not None:
                    raise KafkaException(each.error)

        try:
            self._poller.request(commit, COMMIT_SECONDS)
        except KafkaException as exception:
            raise NotDelivered(describe_error(exception.args[0])) from None
        except TimeoutError:
            raise NotDelivered("the commit was not answered") from None
