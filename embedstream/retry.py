"""Sends dead letters back: the original key and value to the topic and partition that they came from.

    done = retry(settings.kafka, Filter(reason=Reason.TOO_LARGE))
    print(*done.lines())

Each record goes out in one transaction with a mark in the compacted topic `embedstream.retries`: the key is
the position of the input record that failed (TOPIC/PARTITION/OFFSET), the value a JSON object with the dead
letter's position, the attempts so far and the time. What has a mark is not sent again. All retries of a
cluster share one transactional id, whichever dead letters they read, for a record may have failed in a replay
too: one that starts ends what the one before had open, reads the marks after that, and the one before can't
commit any more. So no record is sent twice.

The headers of a record that was sent back: `retry.of`, the position of the input record that failed, and
`attempts`. It goes to the partition that it came from, whatever the partitions are now, so that offsets still
tell which record of a document is newer.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from embedstream.dead_letters import Filter, Letter, position, read_letters
from embedstream.errors import ConfigError, FencedError, TryAgainError
from embedstream.kafka import (
    describe_error,
    explain,
    is_denied,
    make_admin,
    make_producer,
    topic_partitions,
)
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import read_partition
from embedstream.topics import make_compacted_topic

__all__ = ["RETRIES_TOPIC", "Retried", "read_marks", "retry"]

RETRIES_TOPIC = "embedstream.retries"
TRANSACTIONAL_ID = "embedstream-retry"

_BATCH_RECORDS = 500
_BATCH_BYTES = 8 * 1024 * 1024
_CALL_SECONDS = 10.0
_REPEAT_SECONDS = 60.0
_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
_LISTED = 20


@dataclass
class Retried:
    """What was sent back, and what was not.

    Attributes:
        sent: Records sent back, by the reason of their dead letters.
        already: Dead letters whose record was sent back before.
        omitted: Dead letters whose value was too large to be kept: it can't be sent back.
        unreadable: Records of the dead-letters topic that are no dead letters.
        omitted_at: Where the records of the first of `omitted` are: TOPIC/PARTITION/OFFSET.
    """

    sent: Counter[str] = field(default_factory=Counter)
    already: int = 0
    omitted: int = 0
    unreadable: int = 0
    omitted_at: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        return {
            "sent": sum(self.sent.values()),
            "reasons": dict(self.sent),
            "already_sent": self.already,
            "omitted": self.omitted,
            "omitted_at": self.omitted_at,
            "unreadable": self.unreadable,
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        yield f"{sum(self.sent.values()):,} records sent back"
        yield from (f"{count:>9,}  {reason}" for reason, count in self.sent.most_common())
        if self.already:
            yield f"{self.already:,} were sent back before"
        if self.unreadable:
            yield f"{self.unreadable:,} records are no dead letters: `embedstream verify` names them"
        if self.omitted:
            more = ", ..." if self.omitted > len(self.omitted_at) else ""
            yield (
                f"{self.omitted:,} can't be sent back, because the value was too large to be kept with the"
                f" dead letter; produce these documents again: {', '.join(self.omitted_at)}{more}"
            )


def retry(kafka: KafkaSettings, wanted: Filter) -> Retried:
    """Send back the records of dead letters that have not been sent back before.

    Each mark takes some 150 bytes of memory.

    Raises:
        ConfigError: A topic that records came from is gone, or has lost partitions; nothing was sent.
        FencedError: Another retry took over; what this one had not committed is not sent.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction failed; what was committed is marked.
    """
    admin = make_admin(kafka)
    make_compacted_topic(admin, RETRIES_TOPIC)
    producer = _Transactions(kafka)
    # After the fence: from here on no other retry can add a mark without this one failing.
    marks = read_marks(kafka)
    _check_sources(admin, read_letters(kafka, wanted), marks)
    done = Retried()
    for batch in _batches(_to_send(read_letters(kafka, wanted), marks, done)):
        done.sent += producer.send(batch)
    return done


def read_marks(kafka: KafkaSettings) -> set[str]:
    """Return the positions of the input records that were sent back; none where the topic does not exist.

    Raises:
        ServiceUnavailableError: No broker answers.
        TryAgainError: A retry has not ended for a long time.
    """
    admin = make_admin(kafka)
    try:
        partitions = range(topic_partitions(admin, RETRIES_TOPIC))
    except ConfigError:
        return set()
    starts, ends = (find(admin, RETRIES_TOPIC, partitions) for find in (start_offsets, end_offsets))
    marks: set[str] = set()
    for each in partitions:
        messages = read_partition(kafka, RETRIES_TOPIC, each, start=starts[each], end=ends[each])
        with closing(messages):
            marks |= {(message.key() or b"").decode(errors="replace") for message in messages}
    return marks


class _Transactions:
    """Sends batches of dead letters back, each in a transaction with its marks."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Take over from any other retry, whose open transaction ends."""
        self._producer: Producer = make_producer(
            kafka,
            transactional_id=TRANSACTIONAL_ID,
            # A dead letter may be as large as its topic takes; the broker refuses what it does not take.
            message_max_bytes=64 * 1024 * 1024,
        )
        self._call(self._producer.init_transactions, _CALL_SECONDS)

    def send(self, letters: list[Letter]) -> Counter[str]:
        """Send the records back, all of them or none; return how many of each reason."""
        try:
            self._call(self._producer.begin_transaction)
            for each in letters:
                self._send_one(each)
            # It waits for every record, and fails where one was refused.
            self._call(self._producer.commit_transaction, _CALL_SECONDS)
        except KafkaException as exception:
            raise self._given_up(exception.args[0]) from None
        return Counter(each.reason for each in letters)

    def _send_one(self, each: Letter) -> None:
        letter = each.letter
        assert letter is not None
        source, of = letter.source, position(letter.source)
        headers = [("retry.of", of.encode()), ("attempts", str(letter.attempts).encode())]
        mark = {"dead_letter": each.at, "attempts": letter.attempts, "at": int(time.time() * 1000)}
        self._produce(source.topic, each.value, each.key, source.partition, headers)
        self._produce(RETRIES_TOPIC, json.dumps(mark).encode(), of.encode(), -1, [])

    def _produce(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, headers: list[Any]
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _given_up(self, error: KafkaError) -> Exception:
        """Abort, and return what to raise."""
        if error.code() in _FENCED:
            return _fenced()
        # Where that fails too, the next retry ends it as it starts.
        with suppress(KafkaException):
            self._call(self._producer.abort_transaction, _CALL_SECONDS)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return ConfigError(
                f"the topic of a record that is sent back refuses it ({describe_error(error)})",
                "raise its max.message.bytes; `embedstream topics check` tells the size",
            )
        if is_denied(error):
            return explain(KafkaException(error))
        return TryAgainError(
            f"records could not be sent back ({describe_error(error)})",
            "run it again: what was sent is marked and is not sent twice",
        )

    def _call(self, call: Callable[..., Any], *arguments: object) -> None:
        """Repeat the same call while its error passes by itself."""
        deadline = time.monotonic() + _REPEAT_SECONDS
        while True:
            try:
                call(*arguments)
                return
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if error.code() in _FENCED:
                    raise _fenced() from None
                again = error.retriable() or error.code() == KafkaError._TIMED_OUT
                if not again or error.fatal() or time.monotonic() > deadline:
                    if call == self._producer.init_transactions:
                        raise explain(exception) from None
                    raise
                time.sleep(0.05)


def _fenced() -> FencedError:
    return FencedError("another `dlq retry` took over", "run this one again when that has ended")


def _to_send(letters: Iterator[Letter], marks: set[str], done: Retried) -> Iterator[Letter]:
    """Yield the letters whose records go back, and count the others."""
    for each in letters:
        if each.letter is None:
            done.unreadable += 1
            continue
        of = position(each.letter.source)
        if of in marks:
            done.already += 1
        elif each.value is None:
            # Left out for its size. Sent back as it is here, it would delete the document.
            done.omitted += 1
            if len(done.omitted_at) < _LISTED:
                done.omitted_at.append(of)
        else:
            # A record may have two dead letters: of two models, or of a daemon that delivers at least once.
            marks.add(of)
            yield each


def _batches(letters: Iterator[Letter]) -> Iterator[list[Letter]]:
    batch: list[Letter] = []
    size = 0
    for each in letters:
        batch.append(each)
        size += len(each.value or b"") + len(each.key or b"")
        if len(batch) == _BATCH_RECORDS or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_sources(admin: AdminClient, letters: Iterator[Letter], marks: set[str]) -> None:
    """See that what is to be sent back has a place to go to, before anything is sent.

    Raises:
        ConfigError: A topic or a partition of it is gone.
    """
    needed: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for each in letters:
        if each.letter is None or each.value is None or position(each.letter.source) in marks:
            continue
        source = each.letter.source
        counts[source.topic] += 1
        needed[source.topic] = max(needed.get(source.topic, 0), source.partition + 1)
    for topic, partitions in sorted(needed.items()):
        there = topic_partitions(
            admin,
            topic,
            f"nothing was sent back: the topic that {counts[topic]:,} dead letters came from,",
            "make it again, or leave them out with --reason or --since",
        )
        if there < partitions:
            raise ConfigError(
                f"nothing was sent back: {topic} has {there} partitions, and had {partitions} before",
                "give it as many as before",
            )
