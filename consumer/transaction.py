"""Exactly once: a window's records and its offsets in one Kafka transaction."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.deliver import NotDelivered
from consumer.offsets import have_landed, offsets_of
from consumer.outbound import ItemRecords
from consumer.ownership import Ownership
from consumer.poll import Poller
from consumer.sending import Sending, refusal
from consumer.silent import PENDING_MEND
from embedstream.errors import ConfigError, FencedError, ServiceUnavailableError, TryAgainError
from embedstream.kafka import describe_error, explain, is_denied
from embedstream.logs import get_logger

__all__ = ["PENDING_TIMEOUTS", "TransactionalDelivery"]

INSTANCE_MEND = "give every daemon a consumer.instance_id of its own (--instance-id)"

# One call of the transaction API; a call that timed out is repeated, never replaced by another.
CALL_SECONDS = 5.0
METADATA_SECONDS = 30.0
# The longest that offsets may be pending, in transaction time-outs: as one runs out, the broker looks for
# overdue ones every ten seconds.
PENDING_TIMEOUTS = 3
FENCES = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)

_log = get_logger("transaction")


class _Broken(Exception):
    """The producer can't be used any more; whether the transaction landed is not known."""


class TransactionalDelivery:
    """Delivers windows through a transactional producer that it makes, again after it broke or aborted."""

    def __init__(
        self,
        make_producer: Callable[[], Producer],
        poller: Poller,
        ownership: Ownership,
        *,
        topic: str,
        transactional_id: str,
        fingerprint: str,
        chosen: Mapping[int, int],
        timeout_seconds: float,
        stopping: Callable[[], bool],
    ) -> None:
        """Nothing is connected before the first window.

        Args:
            make_producer: a new producer with that transactional id.
            poller: answers for the consumer.
            ownership: knows whether the open transaction's partitions were lost.
            topic: the documents topic.
            transactional_id: the daemon's, for what is told.
            fingerprint: the model's, committed as the offsets' metadata.
            chosen: see `consumer.offsets.offsets_of`.
            timeout_seconds: the transaction time-out that the producer was made with.
            stopping: whether the daemon wants to end; waiting for a broker ends with it.
        """
        self._make_producer = make_producer
        self._poller = poller
        self._ownership = ownership
        self._topic = topic
        self._id = transactional_id
        self._fingerprint = fingerprint
        self._chosen = chosen
        self._timeout = timeout_seconds
        self._stopping = stopping
        self._producer: Producer | None = None
        self._spent = False

    def prepare(self) -> None:
        """Makes the producer and fences its predecessor.

        Called before the daemon joins: as long as a dead predecessor's transaction is open, the offsets of
        its partitions can't be read, and no first window comes. And a predecessor that is alive, fenced by
        the group when we join, finds out at once who it was.

        Raises:
            ServiceUnavailableError: the broker gives no transactions, for longer than one may take. Later on
                it has given some, so the daemon waits for as long as it is wanted.
            ConfigError: the broker does not allow or not know transactions.
            FencedError: another daemon has our transactional id.
        """
        self._producer = self._initialised(give_up_after=self._timeout + CALL_SECONDS)

    def has_rival(self) -> bool:
        """Whether our transactional id was taken over: the broker tells when a transaction begins."""
        producer = self._producer
        if producer is None:
            return False
        # These offsets are never committed.
        offsets = [TopicPartition(self._topic, 0, 0)]
        try:
            self._repeat(producer.begin_transaction, timed=False)
            metadata = self._poller.request(Consumer.consumer_group_metadata, METADATA_SECONDS)
            self._repeat(partial(_bounded, producer.send_offsets_to_transaction), offsets, metadata)
            self._abort(producer)
        except KafkaException as exception:
            return exception.args[0].code() in FENCES
        except (_Broken, TimeoutError):
            pass
        return False

    def deliver(self, items: Sequence[ItemRecords]) -> None:
        """One transaction: produce, send the offsets, commit, which fails if any record did.

        Raises:
            NotDelivered: the transaction was aborted.
            FencedError: another daemon has our transactional id.
            TryAgainError: the broker did not let us begin.
        """
        offsets = offsets_of(items, self._fingerprint, self._chosen)
        producer = self._ready()
        began = time.monotonic()
        try:
            self._attempt(producer, items, offsets)
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            try:
                self._after_error(producer, error, began)
            except _Broken:
                self._start_over(offsets, describe_error(error))
        except _Broken as broken:
            self._start_over(offsets, str(broken))

    def close(self) -> None:
        """Leaves the producer; nothing is in flight between two windows."""
        self._producer = None

    def _attempt(
        self, producer: Producer, items: Sequence[ItemRecords], offsets: list[TopicPartition]
    ) -> None:
        self._repeat(producer.begin_transaction, timed=False)
        sending = Sending(producer, reports=False)
        sending.send(items)
        if sending.failed is not None:
            if sending.failed.code() == KafkaError._FATAL:
                raise KafkaException(sending.failed)
            if sending.failed.code() == KafkaError._UNKNOWN_PARTITION:
                # Partitions were added. This producer looks every five minutes; a new one looks at once.
                raise _Broken(describe_error(sending.failed))
            self._abort(producer)
            raise _not_delivered(sending.failed)
        try:
            # Fetched now, not before: the generation may have changed while producing.
            metadata = self._poller.request(self._poller.group_metadata, METADATA_SECONDS)
        except TimeoutError:
            self._abort(producer)
            raise NotDelivered("the poll thread did not answer") from None
        self._abort_if_lost(producer)
        self._repeat(partial(_bounded, producer.send_offsets_to_transaction), offsets, metadata)
        self._abort_if_lost(producer)
        self._repeat(producer.commit_transaction)

    def _abort_if_lost(self, producer: Producer) -> None:
        if self._ownership.is_lost:
            self._abort(producer)
            raise NotDelivered("partitions were lost while the transaction was open")

    def _after_error(self, producer: Producer, error: KafkaError, began: float) -> None:
        """Aborts if that mends it; `_Broken` if only a new producer does.

        Raises:
            FencedError: our id is another's. A new producer would take it back, for ever in turn.
            ConfigError: this user may not write there.
        """
        if is_denied(error):
            # A new producer has no other rights. An abort that is refused too is left to our id's next one.
            with suppress(KafkaException, _Broken):
                self._abort(producer)
            raise explain(KafkaException(error))
        outcome: Exception = _not_delivered(error)
        if error.txn_requires_abort() or error.code() == KafkaError._FATAL:
            # Of a fatal error, producing says only that it is one, and this says which.
            try:
                self._abort(producer)
            except KafkaException as exception:
                error = exception.args[0]
            else:
                raise outcome
        # After the transaction's time-out the broker itself has given it up; there is no rival.
        if error.code() in FENCES and time.monotonic() - began < self._timeout:
            raise FencedError(
                f"another daemon took over this instance id ({describe_error(error)})",
                INSTANCE_MEND,
            )
        raise _Broken(describe_error(error))

    def _abort(self, producer: Producer) -> None:
        """Aborts; the producer may still be asked for a rival, but takes no record any more.

        An abort drops records that were about to be sent again since their answer was lost, and librdkafka
        2.16 gives their sequence numbers to the next ones of their partition. The broker, which may have the
        dropped ones, takes the next for those: they are acknowledged, and no reader ever sees them.
        """
        self._repeat(producer.abort_transaction)
        self._spent = True

    def _repeat(self, call: Callable[..., Any], *arguments: Any, timed: bool = True) -> None:
        """Repeats the same call while its error is retriable; after the transaction time-out it is broken.

        Raises:
            KafkaException: an error that repeating does not mend.
            _Broken: it never ended.
        """
        deadline = time.monotonic() + self._timeout + CALL_SECONDS
        while True:
            try:
                call(*arguments, *((CALL_SECONDS,) if timed else ()))
                return
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                again = error.retriable() or error.code() == KafkaError._TIMED_OUT
                if not again or error.txn_requires_abort() or error.fatal():
                    raise
                if time.monotonic() > deadline:
                    raise _Broken(describe_error(error)) from None
                time.sleep(0.02)

    def _ready(self) -> Producer:
        """A producer that may begin a transaction: made, and its predecessor fenced, when there is none."""
        if self._spent:
            self._producer = None
        if self._producer is None:
            self._producer = self._initialised()
        return self._producer

    def _initialised(self, give_up_after: float = math.inf) -> Producer:
        producer = self._make_producer()
        began = time.monotonic()
        waited = False
        while True:
            try:
                producer.init_transactions(CALL_SECONDS)
                self._spent = False
                return producer
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if error.code() == KafkaError._FENCED:
                    raise FencedError("another daemon took over this instance id", INSTANCE_MEND) from None
                if error.code() in (
                    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                    KafkaError._UNSUPPORTED_FEATURE,
                    KafkaError.UNSUPPORTED_VERSION,
                ):
                    raise ConfigError(
                        f"the broker gives this daemon no transactions ({describe_error(error)})",
                        f"allow its user Write and Describe on the transactional id {self._id!r}, or set"
                        " consumer.delivery (--delivery at-least-once)",
                    ) from None
                if error.fatal():
                    producer = self._make_producer()
                if self._stopping():
                    raise TryAgainError(
                        f"no transaction could begin ({describe_error(error)})", "start the daemon again"
                    ) from None
                if time.monotonic() - began > give_up_after:
                    raise ServiceUnavailableError(
                        f"the broker has given no transactions for {give_up_after:g} s"
                        f" ({describe_error(error)})",
                        "see its log, and that transaction.state.log.replication.factor and"
                        " transaction.state.log.min.isr are no more than there are brokers; or set"
                        " consumer.delivery (--delivery at-least-once)",
                    ) from None
                if not waited:
                    _log.warning("waiting_for_transactions", error=describe_error(error))
                waited = True
                time.sleep(0.1)

    def _start_over(self, offsets: list[TopicPartition], why: str) -> None:
        """Throws the producer away and learns from the committed offsets whether the window landed.

        `init_transactions` under the same id ends whatever was open, so the committed offsets tell the truth.

        Raises:
            NotDelivered: it did not.
            TryAgainError: the offsets can't be read, for longer than any transaction should be pending.
        """
        _log.warning("producer_replaced", why=why)
        self._producer = None
        self._producer = self._initialised()
        give_up_at = time.monotonic() + PENDING_TIMEOUTS * self._timeout
        told: set[str] = set()
        while True:
            try:
                landed = self._poller.request(
                    lambda consumer: have_landed(consumer, offsets), METADATA_SECONDS
                )
                break
            except (KafkaException, TimeoutError) as error:
                if str(error) not in told:
                    _log.warning("waiting_for_offsets", error=str(error))
                    told.add(str(error))
                if self._stopping() or time.monotonic() > give_up_at:
                    raise TryAgainError(
                        f"the committed offsets can't be read ({error})", PENDING_MEND
                    ) from None
                time.sleep(0.1)
        if not landed:
            raise NotDelivered(f"{why}; a new producer was made")


def _bounded(call: Callable[..., Any], *arguments: Any) -> None:
    """Ends a call that ignores its time-out, by leaving its thread and its producer behind.

    send_offsets_to_transaction waits for ever when the group's coordinator was out of reach (librdkafka's
    issues 5456 and 5511, open in 2.16).

    Raises:
        _Broken: it did not return.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="send-offsets", daemon=True).start()
    try:
        outcome.result(2 * CALL_SECONDS)
    except TimeoutError:
        raise _Broken("sending the offsets does not end") from None


def _not_delivered(error: KafkaError) -> Exception:
    """What an aborted transaction's error means: try again, or that this would end the same way."""
    return refusal(error) or NotDelivered(describe_error(error))
