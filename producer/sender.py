"""Sends documents and deletions to the documents topic, and tells of each whether it arrived whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from embedstream.errors import EmbedstreamError
from embedstream.kafka import describe_error, explain, make_producer
from embedstream.registry import record_header
from embedstream.settings import Settings
from producer.documents import PreparedDocument
from producer.refusals import Reason, Refusal, RefusedError
from producer.versions import Versions
from schemas.deletion import deletion_headers
from schemas.document_writer import before_version, version_bytes
from schemas.headers import Headers

__all__ = ["Deletion", "Listener", "Sender"]

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
_QUEUE_KIB = 32 * 1024
# Kafka's own default of max.message.bytes; a user may lack the right to ask for a topic's.
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588
# What a batch and a record add to key and value.
_FRAMING_BYTES = 512
# Delivery reports are served after so many records: each time costs as much as a small record.
_SERVED_EVERY = 100


class Deletion(NamedTuple):
    """A document to be deleted; its attributes are those of its row in the ledger."""

    id: str
    file: int
    version: int


class Listener(Protocol):
    """Is told what became of everything that was queued, from within the calls of `Sender`."""

    def arrived(self, item: PreparedDocument | Deletion, version: int) -> None:
        """All records of it are acknowledged."""

    def not_arrived(self, item: PreparedDocument | Deletion, refusal: Refusal) -> None:
        """At least one of its records is not."""


class Sender:
    """An idempotent producer of the documents topic. Of one thread.

    Attributes:
        documents: How many have arrived whole.
        deletions: How many have arrived.
        records: How many records have arrived, deletions among them.
        content_bytes: The text of the documents that have arrived, in bytes of UTF-8.
        queued_bytes: The text of the documents that were queued.
        offsets: Of each partition, the offset after the highest acknowledged record.
        failure: Why nothing can be sent any more, None while all is well.
    """

    def __init__(self, settings: Settings, admin: AdminClient, listener: Listener) -> None:
        """Make the client; it connects by itself.

        Raises:
            ServiceUnavailableError: The schema registry can't be reached, where there is one.
            ConfigError: It refuses the schema of documents.
        """
        self.documents = 0
        self.deletions = 0
        self.records = 0
        self.content_bytes = 0
        self.queued_bytes = 0
        self.offsets: dict[int, int] = {}
        self.failure: EmbedstreamError | None = None
        self._topic = settings.kafka.documents_topic
        self._listener = listener
        self._versions = Versions()
        self._since_served = 0
        self._header = record_header(settings.schema_registry, "document", self._topic)
        self._max_message_bytes = _max_message_bytes(admin, self._topic)
        self._mend = f"raise max.message.bytes of topic {self._topic!r} or lower producer.segment_bytes"
        self._producer: Producer = make_producer(
            settings.kafka,
            # Java's choice, so that who deletes or sends a document with another client meets its partition.
            partitioner="murmur2_random",
            linger_ms=50,
            # One thread compresses all that goes to a broker. On real texts level 3, zstd's own choice, takes
            # a quarter more time for a twentieth less bytes (198 and 253 MB/s, ratios of 2.99 and 2.86).
            compression_level=2,
            # A batch that the topic doesn't take would fail all its records for being together.
            batch_size=min(_BATCH_BYTES, self._max_message_bytes - _FRAMING_BYTES),
            message_max_bytes=self._max_message_bytes,
            queue_buffering_max_kbytes=_QUEUE_KIB,
        )

    def send(self, document: PreparedDocument, where: str, above: int = 0) -> int:
        """Queue a document's records; waits while the queue is full.

        Args:
            document: What to send.
            where: Where a person finds it, for a refusal.
            above: Its version will be above this one.

        Returns:
            The version.

        Raises:
            RefusedError: A record is larger than the topic takes, and nothing of the document was sent; or
                nothing can be sent any more, and `failure` says why.
        """
        version = self._versions.next(document.id, above)
        key = document.id.encode()
        head = before_version(key, self._header) + version_bytes(version)
        largest = max(map(len, document.segments)) + len(head) + len(key) + _FRAMING_BYTES
        if largest > self._max_message_bytes:
            told = f"a record of it takes {largest} bytes, the topic at most {self._max_message_bytes}"
            raise RefusedError(Reason.TOO_LARGE, f"{told}: {self._mend}")
        delivery = _Delivery(self, document, version, where, len(document.segments))
        for segment in document.segments:
            self._queue(key, head + segment, delivery)
        self.queued_bytes += document.content_bytes
        return version

    def delete(self, deletion: Deletion) -> None:
        """Queue a deletion, of a version above the document's.

        Raises:
            RefusedError: Nothing can be sent any more, and `failure` says why.
        """
        version = self._versions.next(deletion.id, deletion.version)
        delivery = _Delivery(self, deletion, version, deletion.id, 1)
        self._queue(deletion.id.encode(), None, delivery, deletion_headers(version))

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for what is queued; return whether all of it has arrived or failed."""
        return self._served(lambda: self._producer.flush(timeout)) == 0

    def serve(self) -> None:
        """Take the delivery reports that have come."""
        self._since_served = 0
        self._served(lambda: self._producer.poll(0))

    def _served(self, call: Callable[[], int]) -> int:
        """Let the client call back; a fatal error, which it raises then, is why nothing goes on."""
        try:
            return int(call())
        except KafkaException as error:
            fatal = error
        except SystemError as error:
            # A delivery report that came while the client was raising.
            cause = error.__cause__ or error.__context__
            if not isinstance(cause, KafkaException):
                raise
            fatal = cause
        self.failure = self.failure or explain(fatal)
        return 0

    def settle(self, delivery: _Delivery) -> None:
        """Count a document or deletion whose last delivery report has come."""
        error, item = delivery.error, delivery.item
        if error is None:
            if isinstance(item, PreparedDocument):
                self.documents += 1
                self.content_bytes += item.content_bytes
            else:
                self.deletions += 1
            self._listener.arrived(item, delivery.version)
        elif error.code() in _RECORD_ERRORS:
            told = f"the broker refused it ({describe_error(error)}): {self._mend}"
            self._listener.not_arrived(item, Refusal(Reason.TOO_LARGE, delivery.where, told))
        else:
            self.failure = self.failure or explain(KafkaException(error))
            refusal = Refusal(Reason.NOT_DELIVERED, delivery.where, describe_error(error))
            self._listener.not_arrived(item, refusal)

    def _queue(
        self, key: bytes, value: bytes | None, delivery: _Delivery, headers: Headers | None = None
    ) -> None:
        while True:
            if self.failure is not None:
                raise RefusedError(Reason.NOT_DELIVERED, str(self.failure))
            try:
                self._producer.produce(
                    self._topic, value, key, on_delivery=delivery, headers=[*headers] if headers else None
                )
            except BufferError:
                self._served(lambda: self._producer.poll(0.1))
            except KafkaException as error:
                if error.args[0].code() in _RECORD_ERRORS:
                    told = f"the client refused it ({describe_error(error.args[0])}): {self._mend}"
                    raise RefusedError(Reason.TOO_LARGE, told) from None
                # Fatal for an idempotent producer: it can't tell any more what has arrived.
                self.failure = explain(error)
            else:
                break
        self._since_served += 1
        if self._since_served >= _SERVED_EVERY:
            self.serve()


class _Delivery:
    """A document or deletion on its way; called with the delivery report of each of its records."""

    __slots__ = ("_remaining", "_sender", "error", "item", "version", "where")

    def __init__(
        self, sender: Sender, item: PreparedDocument | Deletion, version: int, where: str, records: int
    ) -> None:
        self._sender = sender
        self._remaining = records
        self.item = item
        self.version = version
        self.where = where
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        self._remaining -= 1
        if error is None:
            self._sender.records += 1
            # The reports of a partition come in the order of its offsets.
            self._sender.offsets[message.partition()] = message.offset() + 1  # type: ignore[index,operator]
        elif self.error is None:
            self.error = error
        if self._remaining == 0:
            self._sender.settle(self)


def _max_message_bytes(admin: AdminClient, topic: str) -> int:
    """Return the topic's `max.message.bytes`, or Kafka's default where a broker doesn't tell."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=10)[resource].result()
        return int(entries["max.message.bytes"].value)
    except (KafkaException, KeyError, TypeError, ValueError):
        return _DEFAULT_MAX_MESSAGE_BYTES
