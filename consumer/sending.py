"""Hands records to a Kafka producer and keeps the first thing that went wrong with any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.outbound import ItemRecords, OutboundRecord
from embedstream.errors import ConfigError, EmbedstreamError
from embedstream.kafka import describe_error, explain, is_denied

__all__ = ["Sending", "refusal"]

FLUSH_SECONDS = 0.2
# A batch is handed over under the interpreter lock, at about a microsecond a record.
BATCH_RECORDS = 1000


class Sending:
    """One window on its way to the broker.

    Records go in batches, not one by one: each call of `produce` gives the interpreter lock away, and each
    delivery report takes it, which costs several times what the call itself does.
    """

    def __init__(self, producer: Producer, *, reports: bool) -> None:
        """Prepares to send.

        Args:
            producer: takes the records.
            reports: whether to ask for a report of each record. A transaction needs none: its commit fails
                if any of its records did.
        """
        self._producer = producer
        self._reports = reports
        self._waiting: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        self.failed: KafkaError | None = None

    def send(self, items: Sequence[ItemRecords]) -> None:
        """Produces all records and waits for the broker to have them, or for the first error.

        Without reports it may end sooner, where nothing moves any more: the transaction's next call says why.

        Raises:
            KafkaException: the producer takes none of our records.
        """
        for each in items:
            for record in each.records:
                place = record.topic, record.partition
                waiting = self._waiting[place]
                if record.headers:
                    # A batch takes no headers. What comes before goes first: the order within a partition.
                    self._send_waiting(place)
                    self._send_one(record)
                    continue
                waiting.append({"key": record.key, "value": record.value})
                if len(waiting) >= BATCH_RECORDS:
                    self._send_waiting(place)
        for place in self._waiting:
            self._send_waiting(place)
        self._flush()

    @property
    def refused(self) -> EmbedstreamError | None:
        """Why a topic refused a record for what it is: sending it again would end the same way."""
        return None if self.failed is None else refusal(self.failed)

    def _send_waiting(self, place: tuple[str, int]) -> None:
        batch, self._waiting[place] = self._waiting[place], []
        topic, partition = place
        report: dict[str, Any] = {"on_delivery": self._report} if self._reports else {}
        while batch and self.failed is None:
            # The partition is the call's: one in a record of a batch is ignored.
            taken = self._producer.produce_batch(topic, batch, partition=partition, **report)
            if taken == len(batch):
                return
            # When the client's queue is full, the rest of the batch fails with the first.
            batch = [each for each in batch if "_error" in each]
            error: KafkaError = batch[0].pop("_error")
            for each in batch:
                each.pop("_error", None)
            if error.code() == KafkaError._QUEUE_FULL:
                self._producer.poll(FLUSH_SECONDS)
            else:
                self.failed = error

    def _send_one(self, record: OutboundRecord) -> None:
        report: dict[str, Any] = {"on_delivery": self._report} if self._reports else {}
        while self.failed is None:
            try:
                self._producer.produce(
                    record.topic,
                    partition=record.partition,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    **report,
                )
                return
            except BufferError:
                self._producer.poll(FLUSH_SECONDS)
            except KafkaException as exception:
                if refusal(exception.args[0]) is None:
                    raise
                self.failed = exception.args[0]

    def _flush(self) -> None:
        left = len(self._producer)
        while left and self.failed is None:
            self._producer.flush(FLUSH_SECONDS)
            before, left = left, len(self._producer)
            if left == before and not self._reports:
                return

    def _report(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and self.failed is None:
            self.failed = error


def refusal(error: KafkaError) -> EmbedstreamError | None:
    """What to end with where a topic never takes a record, however often sent; None for other errors."""
    if is_denied(error):
        return explain(KafkaException(error))
    if error.code() not in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
        return None
    return ConfigError(
        f"our records are refused ({describe_error(error)})",
        "raise the topic's max.message.bytes (`embedstream topics check` tells the size), and"
        " message.max.bytes where [kafka.client] sets it",
    )
