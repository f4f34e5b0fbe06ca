"""What the daemons of a group have cost, kept in Kafka, so that it survives them.

    spending = Spending(kafka, "embedstream", "pod-3", price=0.5)
    spending.look()
    spending.group_dollars

Each daemon writes what it has cost into the compacted topic `embedstream.spending` every now and then: the
key is a JSON list of group and instance id, the value a JSON object with `dollars`, `price_per_hour` and
`tokens`, and the last record of a key counts. A daemon that is started again goes on from its own last
record, so that a budget holds over restarts and over the fleet. Between two records of another daemon its
price counts on. What one spent in the moments before it was killed is not known: at most `WRITE_SECONDS`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from embedstream.kafka import describe_error, is_denied, make_admin, make_consumer, make_producer
from embedstream.logs import get_logger
from embedstream.settings import KafkaSettings

__all__ = ["SPENDING_TOPIC", "Money", "Spending", "projected"]

SPENDING_TOPIC = "embedstream.spending"
WRITE_SECONDS = 30.0
READ_SECONDS = 10.0
# Who has not written for so long is not paid for any more.
ALIVE_SECONDS = 3 * WRITE_SECONDS
_SETTINGS = {
    "cleanup.policy": "compact",
    # So that the log stays a few records a daemon.
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}

_log = get_logger("spending")


@dataclass(frozen=True, slots=True)
class Money:
    """What one daemon has cost and encoded, what it costs an hour (0 once it has ended), and when it said so.

    `at` is in seconds of the reader's own clock: those of other machines may be wrong.
    """

    dollars: float
    price_per_hour: float
    tokens: float
    at: float


def projected(dollars: float, price_per_hour: float, seconds_left: float | None) -> float | None:
    """What a job will have cost at its end; None while nobody knows when that is."""
    return None if seconds_left is None else dollars + price_per_hour * seconds_left / 3600


class Spending:
    """The money of a group, as one daemon or `status` sees it; for one thread."""

    def __init__(
        self,
        kafka: KafkaSettings,
        group: str,
        instance_id: str | None = None,
        price: float = 0.0,
        tokens: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to count; connects to nothing yet.

        Args:
            kafka: Where it is kept.
            group: Whose money it is.
            instance_id: Of the daemon that counts; None only reads.
            price: Dollars an hour of this daemon's machine.
            tokens: What it has encoded since it was started.
            clock: Seconds that never go back.
        """
        self._kafka = kafka
        self._group = group
        self._instance = instance_id
        self._price = price
        self._clock = clock
        self._began = clock()
        self._tokens = tokens
        self._before = Money(0.0, 0.0, 0.0, 0.0)
        self._written: float | None = None
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._caught_up = False
        self._looked = -math.inf
        self._known: dict[str, Money] = {}

    @property
    def dollars(self) -> float:
        """What this daemon has cost, its earlier lives included."""
        return self._before.dollars + max(0.0, self._clock() - self._began) * self._price / 3600

    @property
    def group_dollars(self) -> float:
        """What all daemons of the group have cost, those that are gone included."""
        return self._own + sum(map(self._by_now, self._others()))

    @property
    def group_tokens(self) -> float:
        """What they have encoded."""
        others = sum(each.tokens for each in self._others())
        return others + self._before.tokens + self._tokens()

    @property
    def per_million_tokens(self) -> float | None:
        """Dollars of the group for a million tokens; None before the first token."""
        tokens = self.group_tokens
        # Of the others, what they had cost when they told how many tokens that was for.
        dollars = self._own + sum(each.dollars for each in self._others())
        return dollars / tokens * 1e6 if tokens else None

    @property
    def price_per_hour(self) -> float:
        """What the daemons that live cost an hour together."""
        now = self._clock()
        return self._price + sum(
            each.price_per_hour for each in self._others() if now - each.at < ALIVE_SECONDS
        )

    def look(self) -> None:
        """Reads what the others have written, and writes when it is time; whatever fails, it counts on.

        A daemon reads its own earlier record before it writes the first.
        """
        try:
            if self._consumer is None:
                self._open()
            self._read()
            if self._written is None or self._clock() - self._written >= WRITE_SECONDS:
                self._write(self._price)
        except KafkaException as error:
            _log.warning("spending_unknown", error=describe_error(error.args[0]))
        except Exception as error:
            # A budget has to hold whatever becomes of the books.
            _log.warning("spending_unknown", exc_info=error)

    def close(self) -> None:
        """Writes that this daemon has ended, if a broker answers within seconds; lets go of the client."""
        try:
            self._write(0.0)
        except Exception as error:
            _log.warning("spending_not_written", exc_info=error)
        if self._consumer is not None:
            self._consumer.close()

    @property
    def _own(self) -> float:
        return 0.0 if self._instance is None else self.dollars

    def _others(self) -> list[Money]:
        return [each for name, each in self._known.items() if name != self._instance]

    def _by_now(self, money: Money) -> float:
        """What another has cost by now, told or not: it writes again before long, if it lives."""
        seconds = min(self._clock() - money.at, WRITE_SECONDS)
        return money.dollars + seconds * money.price_per_hour / 3600

    def _write(self, price: float) -> None:
        """Writes what this daemon has cost, and what it costs from now on."""
        # Until all was read, what it cost in an earlier life is not known.
        if self._instance is None or not self._caught_up:
            return
        if self._producer is None:
            self._producer = make_producer(self._kafka, message_timeout_ms=5000, linger_ms=0)
        key = json.dumps([self._group, self._instance])
        value = {
            "dollars": self.dollars,
            "price_per_hour": price,
            "tokens": self._before.tokens + self._tokens(),
        }
        failed: list[str] = []

        def told(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(describe_error(error))

        self._producer.produce(SPENDING_TOPIC, json.dumps(value), key, on_delivery=told)
        if self._producer.flush(5.0) == 0 and not failed:
            self._written = self._clock()
            return
        _log.warning("spending_not_written", error=failed[0] if failed else "no broker answers in time")
        # One that has failed for good is not asked again.
        self._producer = None

    def _open(self) -> None:
        admin = make_admin(self._kafka)
        exists = SPENDING_TOPIC in admin.list_topics(timeout=READ_SECONDS).topics
        if not exists:
            if self._instance is None:
                return
            made = admin.create_topics([NewTopic(SPENDING_TOPIC, 1, -1, config=_SETTINGS)])
            try:
                made[SPENDING_TOPIC].result(READ_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        consumer = make_consumer(self._kafka, group_id="embedstream-spending", fetch_wait_max_ms=100)
        consumer.assign([TopicPartition(SPENDING_TOPIC, 0, 0)])
        self._consumer = consumer

    def _read(self) -> None:
        """Takes in everything up to the end of the topic."""
        deadline = time.monotonic() + READ_SECONDS
        while self._consumer is not None:
            messages = self._consumer.consume(1000, 0.2)
            for message in messages:
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._caught_up = True
                elif error.fatal() or is_denied(error):
                    raise KafkaException(error)
            # The end is told once, and again only behind new records.
            if not messages and self._caught_up:
                self._looked = self._clock()
                return
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def _take(self, message: Message) -> None:
        """Takes in a record; what can't be read is passed over."""
        with suppress(ValueError, KeyError, TypeError):
            group, instance = json.loads(message.key() or b"")
            value = json.loads(message.value() or b"")
            money = Money(
                float(value["dollars"]),
                float(value["price_per_hour"]),
                float(value["tokens"]),
                self._clock() - self._age(message),
            )
            numbers = (money.dollars, money.price_per_hour, money.tokens)
            if group == self._group and all(map(math.isfinite, numbers)):
                self._known[instance] = money
                if instance == self._instance and self._written is None:
                    self._before = money

    def _age(self, message: Message) -> float:
        """How many seconds ago it was written: not before the last look, whatever the clocks say."""
        told = time.time() - message.timestamp()[1] / 1000
        return max(0.0, min(told, self._clock() - self._looked))
