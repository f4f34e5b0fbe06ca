"""Sends documents to the documents topic, and knows of each whether it arrived whole."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from embedstream.errors import EmbedstreamError
from embedstream.kafka import describe_error, explain, make_admin, make_producer, topic_partitions
from embedstream.settings import Settings
from producer.documents import ReadDocument, records
from producer.refusals import Reason, Refusal, RefusedError
from producer.versions import Versions
from schemas.wire import encode_document

__all__ = ["Sender"]

# What the broker and the client say of one record that the topic doesn't take; anything else is about all.
_RECORD_ERRORS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
    }
)
_BATCH_BYTES = 1_000_000
# librdkafka would hold 1 GB before it pushes back; a tenth of a second of this keeps every broker busy.
_QUEUE_KIB = 64 * 1024
# Kafka's own default of max.message.bytes; a user may lack the right to ask for a topic's.
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
# What a batch and a record add to key and value.
_FRAMING_BYTES = 512


class Sender:
    """An idempotent producer of the documents topic. Of one thread; `close` it at the end.

    Attributes:
        documents: How many have arrived whole.
        records: How many records have arrived.
        content_bytes: The text of the documents that have arrived, in bytes of UTF-8.
        queued_bytes: The text of the documents that were queued.
        failure: Why nothing can be sent any more, None while all is well.
    """

    def __init__(self, settings: Settings, on_refusal: Callable[[Refusal], None]) -> None:
        """Connect.

        Args:
            settings: Of Kafka and of the producer.
            on_refusal: Called, from `send` and `flush`, for each document that did not arrive.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: The topic does not exist.
        """
        self.documents = 0
        self.records = 0
        self.content_bytes = 0
        self.queued_bytes = 0
        self.failure: EmbedstreamError | None = None
        self._topic = settings.kafka.documents_topic
        self._segment_bytes = settings.producer.segment_bytes
        self._on_refusal = on_refusal
        self._versions = Versions()
        admin = make_admin(settings.kafka)
        topic_partitions(admin, self._topic, "kafka.documents_topic")
        self._max_message_bytes = _max_message_bytes(admin, self._topic)
        self._mend = f"raise max.message.bytes of topic {self._topic!r} or lower producer.segment_bytes"
        self._producer: Producer = make_producer(
            settings.kafka,
            # Java's choice, so that who deletes or sends a document with another client meets its partition.
            partitioner="murmur2_random",
            linger_ms=50,
            # A batch that the topic doesn't take would fail all its records for being together.
            batch_size=min(_BATCH_BYTES, self._max_message_bytes - _FRAMING_BYTES),
            message_max_bytes=self._max_message_bytes,
            queue_buffering_max_kbytes=_QUEUE_KIB,
        )

    def send(self, document: ReadDocument, where: str) -> None:
        """Queue a document's records; waits while the queue is full.

        Args:
            document: What to send.
            where: Where a person finds it, for a refusal.

        Raises:
            RefusedError: A record is larger than the topic takes, and nothing of the document was sent; or
                nothing can be sent any more, and `failure` says why.
        """
        version = self._versions.next(document.id)
        key = document.id.encode()
        values = [encode_document(each) for each in records(document, version, self._segment_bytes)]
        largest = max(map(len, values)) + len(key) + _FRAMING_BYTES
        if largest > self._max_message_bytes:
            told = f"a record of it takes {largest} bytes, the topic at most {self._max_message_bytes}"
            raise RefusedError(Reason.TOO_LARGE, f"{told}: {self._mend}")
        delivery = _Delivery(self, where, document.content_bytes, len(values))
        for value in values:
            self._queue(key, value, delivery)
        self.queued_bytes += document.content_bytes
        # Serves the delivery reports, so that they never pile up.
        self._producer.poll(0)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for what is queued; return whether all of it has arrived or failed."""
        return int(self._producer.flush(timeout)) == 0

    def settle(self, delivery: _Delivery) -> None:
        """Count a document whose last delivery report has come."""
        error = delivery.error
        if error is None:
            self.documents += 1
            self.content_bytes += delivery.content_bytes
        elif error.code() in _RECORD_ERRORS:
            told = f"the broker refused it ({describe_error(error)}): {self._mend}"
            self._on_refusal(Refusal(Reason.TOO_LARGE, delivery.where, told))
        else:
            self.failure = self.failure or explain(KafkaException(error))
            self._on_refusal(Refusal(Reason.NOT_DELIVERED, delivery.where, describe_error(error)))

    def _queue(self, key: bytes, value: bytes, delivery: _Delivery) -> None:
        while True:
            if self.failure is not None:
                raise RefusedError(Reason.NOT_DELIVERED, str(self.failure))
            try:
                self._producer.produce(self._topic, value, key, on_delivery=delivery)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() in _RECORD_ERRORS:
                    told = f"the client refused it ({describe_error(error.args[0])}): {self._mend}"
                    raise RefusedError(Reason.TOO_LARGE, told) from None
                # Fatal for an idempotent producer: it can't tell any more what has arrived.
                self.failure = explain(error)
            else:
                return


class _Delivery:
    """One document on its way; called with the delivery report of each of its records."""

    __slots__ = ("_sender", "content_bytes", "error", "remaining", "where")

    def __init__(self, sender: Sender, where: str, content_bytes: int, remaining: int) -> None:
        self._sender = sender
        self.where = where
        self.content_bytes = content_bytes
        self.remaining = remaining
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, _: Message) -> None:
        self.remaining -= 1
        if error is None:
            self._sender.records += 1
        elif self.error is None:
            self.error = error
        if self.remaining == 0:
            self._sender.settle(self)


def _max_message_bytes(admin: AdminClient, topic: str) -> int:
    """Return the topic's `max.message.bytes`, or Kafka's default where a broker doesn't tell."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=10)[resource].result()
        return int(entries["max.message.bytes"].value)
    except (KafkaException, KeyError, TypeError, ValueError):
        return _DEFAULT_MAX_MESSAGE_BYTES
