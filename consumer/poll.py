"""The poll stage: the one thread that calls the Kafka consumer.

confluent-kafka lets one thread at a time into a consumer, and another deadlocks during a callback; so whoever
needs something of it (group metadata, a commit) asks here and waits for the answer. This thread never waits
long for anything itself, or the group would throw the daemon out.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.ownership import Ownership
from consumer.queues import BoundedQueue
from consumer.records import EndOfPartition, Input, Polled, header_list
from consumer.silent import OFFSET_SECONDS, PENDING_MEND, SilentPartitions
from consumer.topics import NEW_INPUT_MEND
from embedstream.errors import ConfigError, EmbedstreamError, TryAgainError
from embedstream.kafka import describe_error, explain
from embedstream.logs import get_logger
from embedstream.metrics import Metrics

__all__ = ["Poller"]

# A batch of messages is copied under the interpreter lock: large enough to be cheap, and still brief.
MESSAGES_PER_POLL = 256
POLL_SECONDS = 0.05
# Pausing throws away what was fetched ahead, so a full queue is first waited on. The group's callbacks wait
# as well meanwhile: that bounds this from above.
PAUSE_AFTER_SECONDS = 1.0
# What the client says of FENCED_INSTANCE_ID.
FENCED = "fenced by other consumer with same group.instance.id"

T = TypeVar("T")

_log = get_logger("poll")


class Poller:
    """Owns the Kafka consumer: polls into a queue, answers requests, keeps the ownership up to date."""

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        inputs: BoundedQueue[Polled],
        ownership: Ownership,
        metrics: Metrics,
        *,
        revoke_seconds: float,
        max_poll_seconds: float,
        pending_seconds: float,
        place: Callable[[Consumer, str, int, int | None], TopicPartition],
    ) -> None:
        """Takes over the consumer; from here on, only the thread that calls `run` may use it.

        Args:
            consumer: not yet subscribed.
            topic: the documents topic.
            inputs: where records go, costed in bytes.
            ownership: told of every assignment.
            metrics: counts rebalances.
            revoke_seconds: how long a revoke may wait for one more encoded window to start.
            max_poll_seconds: the poll interval; a transaction that outlasts it ends the process.
            pending_seconds: how long a partition's committed offset may take to come.
            place: `consumer.position.place`, for a partition that the client can't go on with.
        """
        self._consumer = consumer
        self._topic = topic
        self._inputs = inputs
        self._ownership = ownership
        self._metrics = metrics
        self._revoke_seconds = revoke_seconds
        self._max_poll_seconds = max_poll_seconds
        self._silent = SilentPartitions(pending_seconds)
        self._place = place
        self._requests: queue.SimpleQueue[tuple[Callable[[Consumer], Any], Future[Any]]] = queue.SimpleQueue()
        self._held: deque[Polled] = deque()
        self._held_since = 0.0
        self._paused: set[tuple[str, int]] = set()
        self._error: EmbedstreamError | None = None
        self._fenced = False
        self._member: str | None = None
        self._expelled = False
        self._to_join_again = False
        self.more_encoded: Callable[[], bool] = lambda: False

    def request(self, call: Callable[[Consumer], T], timeout: float = 60.0) -> T:
        """Runs `call` with the consumer on the poll thread and returns its result (from any other thread).

        Raises:
            TimeoutError: the poll thread did not answer in time; whatever `call` raises is raised here.
        """
        future: Future[T] = Future()
        self._requests.put((call, future))
        return future.result(timeout)

    def group_metadata(self, consumer: Consumer) -> Any:
        """What a transaction sends with its offsets; call it through `request`.

        If it is not that of the membership under which partitions were assigned, they are withdrawn.
        """
        metadata = consumer.consumer_group_metadata()
        self._check_membership()
        return metadata

    def is_fenced(self) -> bool:
        """Whether the group has given our instance id to another member; this consumer is of no use then."""
        return self._fenced

    def member_id(self) -> str | None:
        """Under which the group last gave this consumer partitions, or none of them."""
        return self._member

    def join_again(self, partitions: list[int]) -> None:
        """Has this consumer leave the group and join it again, so that it gives out partitions nobody has.

        From any thread; `run` does it, unless the daemon is ending.
        """
        _log.warning("partitions_without_owner", partitions=partitions)
        self._to_join_again = True

    def subscribe(self) -> None:
        """Joins the group."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def run(self, until: Callable[[], bool], *, reading: Callable[[], bool]) -> None:
        """Polls until `until()`; records are passed on only while `reading()`.

        Raises:
            ConfigError: the topic is gone or not allowed.
            TryAgainError: a transaction outlasted the poll interval.
        """
        while not until():
            self._answer_requests(0.0)
            if reading():
                self._read()
            else:
                # What comes all the same, of a partition that was just assigned, is its next owner's.
                self._pause()
                self._take(self._consume())
                self._held.clear()
            if self._silent:
                self._silent.look(self._consumer, self._paused)
            if not self._fenced and (self._expelled or (self._to_join_again and reading())):
                self._join_again()
            if self._error is not None:
                raise self._error

    def leave(self, timeout: float = 10.0) -> None:
        """Gives the partitions back at once, so that the others need not wait for the session to end.

        `close()` alone would not do that for a static member.
        """
        # A consumer that was fenced takes no call any more; it has nothing to give back.
        with contextlib.suppress(KafkaException):
            self._give_back(timeout)
        self._consumer.close()

    def _give_back(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._consumer.unsubscribe()
        while self._consumer.assignment() and time.monotonic() < deadline:
            self._answer_requests(0.0)
            self._consumer.poll(POLL_SECONDS)

    def _join_again(self) -> None:
        """Begins anew at the committed offsets: another may have read on from where this consumer is."""
        self._expelled = self._to_join_again = False
        self._held.clear()
        self._give_back(self._max_poll_seconds)
        self.subscribe()

    def _check_membership(self) -> None:
        """Withdraws all partitions if the group has let this consumer in anew since they were assigned.

        The client may keep its partitions when it joins again after it was expelled (librdkafka 2.16 with
        cooperative-sticky, when the expulsion came out in the answer to a join), though another had them
        meanwhile. A member that was expelled always comes back under another id, but for KIP-848, where it
        keeps its own and the client tells of every loss.
        """
        kept = self._ownership.partitions
        if kept and self._consumer.memberid() != self._member:
            _log.warning("expelled", partitions=sorted(partition for _, partition in kept))
            self._ownership.withdraw(kept, lost=True)
            self._paused -= kept
            self._silent.gone(kept)
            self._expelled = True

    def _read(self) -> None:
        self._pass_on()
        if self._held:
            now = time.monotonic()
            if self._paused or now - self._held_since > PAUSE_AFTER_SECONDS:
                self._pause()
                self._take(self._consume())
            else:
                self._answer_requests(POLL_SECONDS)
            return
        if self._paused and self._inputs.cost <= self._inputs.capacity // 2:
            self._resume()
        if self._paused:
            self._pause()  # partitions that were assigned since
        self._take(self._consume())
        self._pass_on()

    def _consume(self) -> list[Message]:
        try:
            return self._consumer.consume(MESSAGES_PER_POLL, POLL_SECONDS)
        except KafkaException as exception:
            self._on_error(exception.args[0])
            return []

    def _take(self, messages: list[Message]) -> None:
        stopped: dict[tuple[str, int], int | None] = {}
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            error = message.error()
            if error is not None and error.code() not in (
                KafkaError._PARTITION_EOF,
                KafkaError._AUTO_OFFSET_RESET,
            ):
                self._on_error(error)
                continue
            if topic is None or partition is None:
                continue
            if self._silent:
                self._silent.gone([(topic, partition)])
            number = self._ownership.number((topic, partition))
            if number is None:
                continue
            if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                stopped[topic, partition] = None if offset is None or offset < 0 else offset
                continue
            if offset is None:
                continue
            if error is not None:
                self._held.append(EndOfPartition(topic, partition, offset, number))
                continue
            self._held.append(
                Input(
                    topic,
                    partition,
                    offset,
                    number,
                    message.key(),
                    message.value(),
                    tuple(header_list(message)),
                    message.timestamp()[1],
                )
            )
        if messages:
            self._held_since = time.monotonic()
        if stopped:
            self._place_again(stopped)

    def _place_again(self, stopped: Mapping[tuple[str, int], int | None]) -> None:
        """Has partitions fetched again, all at once: a later one waits for a fetch of the others."""
        try:
            unknown = [each for each, offset in stopped.items() if offset is None]
            offsets = {**stopped, **(self._committed(unknown) if unknown else {})}
            placed = [self._place(self._consumer, *each, offset) for each, offset in offsets.items()]
            # A partition without a position can't be sought in; assigned again, it takes the one given.
            self._consumer.incremental_unassign(placed)
            self._consumer.incremental_assign(placed)
        except EmbedstreamError as error:
            self._error = error
        except KafkaException as exception:
            self._error = explain(exception)
        self._paused -= stopped.keys()

    def _committed(self, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The group's offsets of those that have one: the client may say so of what is only pending.

        Raises:
            TryAgainError: they do not come.
        """
        try:
            found = self._consumer.committed(
                [TopicPartition(*each) for each in partitions], timeout=OFFSET_SECONDS
            )
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        except KafkaException as exception:
            asked = " or ".join(str(partition) for _, partition in partitions)
            raise TryAgainError(
                f"the committed offset of {self._topic!r} partition {asked} does not come"
                f" ({describe_error(exception.args[0])})",
                PENDING_MEND,
            ) from None
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def _pass_on(self) -> None:
        self._inputs.put_some(self._held, lambda each: each.size)

    def _pause(self) -> None:
        new = self._ownership.partitions - self._paused
        if new:
            self._consumer.pause([TopicPartition(*partition) for partition in new])
            self._paused |= new

    def _resume(self) -> None:
        kept = self._paused & self._ownership.partitions
        self._consumer.resume([TopicPartition(*partition) for partition in kept])
        self._paused.clear()

    def _answer_requests(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                left = deadline - time.monotonic()
                call, future = self._requests.get(timeout=left) if left > 0 else self._requests.get_nowait()
            except queue.Empty:
                return
            try:
                future.set_result(call(self._consumer))
            except Exception as error:
                future.set_exception(error)

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._check_membership()
        self._member = self._consumer.memberid()
        names = [(p.topic, p.partition) for p in partitions]
        self._ownership.assign(names)
        self._silent.assigned(names)
        self._metrics.rebalances_total.labels(kind="assigned").inc()
        _log.info("partitions_assigned", partitions=sorted(p.partition for p in partitions))

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._check_membership()
        # The partitions are still ours here: windows that are encoded may be delivered, so that no GPU work
        # is lost, but only for so long, because the whole group waits.
        deadline = time.monotonic() + self._revoke_seconds
        while self.more_encoded() and time.monotonic() < deadline:
            self._answer_requests(POLL_SECONDS)
        self._withdraw(partitions, lost=False)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._withdraw(partitions, lost=True)

    def _withdraw(self, partitions: list[TopicPartition], *, lost: bool) -> None:
        """Changes the numbers first, then waits: a transaction that is open covers what was ours."""
        names = {(p.topic, p.partition) for p in partitions}
        self._ownership.withdraw(names, lost=lost)
        self._paused -= names
        self._silent.gone(names)
        deadline = time.monotonic() + self._max_poll_seconds
        while self._ownership.transaction_open:
            # The open transaction asks this very thread for the group metadata.
            self._answer_requests(0.01)
            if time.monotonic() > deadline:
                self._error = TryAgainError(
                    "a transaction outlasted the poll interval",
                    "see the broker's log; start the daemon again",
                )
                break
        self._held = deque(each for each in self._held if (each.topic, each.partition) not in names)
        self._metrics.rebalances_total.labels(kind="lost" if lost else "revoked").inc()
        _log.info("partitions_lost" if lost else "partitions_revoked", partitions=sorted(p for _, p in names))

    def _on_error(self, error: KafkaError) -> None:
        code = error.code()
        # A consumer's fatal error comes under one code, whatever it is.
        fatal = error.fatal() or code == KafkaError._FATAL
        if fatal and FENCED in error.str():
            _log.warning("fenced_by_group", error=describe_error(error))
            # The client does not always tell of the loss.
            self._ownership.withdraw(self._ownership.partitions, lost=True)
            self._fenced = True
        elif code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            # Whether it has been made again since is for the next start to find out.
            self._error = ConfigError(
                f"kafka.documents_topic {self._topic!r} was deleted under the running daemon",
                "make it again (`embedstream topics create`); then " + NEW_INPUT_MEND,
            )
        elif fatal or code in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            self._error = explain(KafkaException(error))
        else:
            # The client goes on by itself: a missed poll interval ends in on_lost, a broker comes back.
            _log.warning("consumer_error", error=describe_error(error))
