"""Hands records to a Kafka producer and keeps the first thing that went wrong with any of them."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, Message, Producer

from consumer.outbound import ItemRecords
from embedstream.errors import ConfigError
from embedstream.kafka import describe_error

__all__ = ["Sending"]

FLUSH_SECONDS = 0.2


class Sending:
    """One window on its way to the broker."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.failed: KafkaError | None = None

    def send(self, items: Sequence[ItemRecords]) -> None:
        """Produces all records and waits for their delivery reports, or for the first that is an error."""
        for each in items:
            for record in each.records:
                while self.failed is None:
                    try:
                        self._producer.produce(
                            record.topic,
                            partition=record.partition,
                            key=record.key,
                            value=record.value,
                            headers=list(record.headers),
                            on_delivery=self._report,
                        )
                        break
                    except BufferError:
                        self._producer.poll(FLUSH_SECONDS)
        while len(self._producer) and self.failed is None:
            self._producer.flush(FLUSH_SECONDS)

    @property
    def refused(self) -> ConfigError | None:
        """Why a topic refused a record for what it is: sending it again would end the same way."""
        if self.failed is None or self.failed.code() not in (
            KafkaError.MSG_SIZE_TOO_LARGE,
            KafkaError.INVALID_RECORD,
        ):
            return None
        return ConfigError(
            f"a topic refuses our records ({describe_error(self.failed)})",
            "raise its max.message.bytes; `embedstream topics check` tells the size",
        )

    def _report(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and self.failed is None:
            self.failed = error
