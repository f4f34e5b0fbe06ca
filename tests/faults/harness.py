"""A cluster, a feed, a fleet of daemons and a concurrent reader, moved on together by one thread.

Whoever waits calls `wait` (or `tick`), and everything goes on meanwhile: documents are sent, output is read,
daemons are started again, and what was put off with `later` is done when it is due.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from confluent_kafka import IsolationLevel, Message

from embedstream.kafka import make_admin
from embedstream.offsets import committed_offsets, end_offsets
from tests.brokers import ApacheCluster
from tests.faults.feed import NUMBER_HEADER, Feed
from tests.faults.fleet import Fleet
from tests.faults.network import Network
from tests.faults.reader import Reader
from tests.hash_encoder import HashEncoder, vector_of
from tests.kafka import make_topics, read_all, read_each
from tests.oracle import Outcome, check_exactly_once, decode, source_of

__all__ = ["BROKER_SETTINGS", "PARTITIONS", "Harness"]

PARTITIONS = 6
# A read_committed reader sees the last output at most so much later.
READER_SECONDS = 10.0
TRACES = 20
BROKER_SETTINGS: Mapping[str, str] = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1500",
}


class Harness:
    """Everything of one run; a context manager. The cluster is the caller's, the topics are its own."""

    def __init__(
        self,
        cluster: ApacheCluster,
        folder: Path,
        *,
        seed: int,
        protocol: str = "classic",
        delivery: str = "exactly-once",
        partitions: int = PARTITIONS,
        encoder: dict[str, object] | None = None,
        network: Network | None = None,
    ) -> None:
        self.cluster = cluster
        self.topics = make_topics(cluster.bootstrap, partitions, prefix="faults")
        self.feed = Feed(self.topics, random.Random(seed), partitions)
        self.network = network
        self.delivery = delivery
        self.fleet = Fleet(
            self.topics, folder, protocol=protocol, delivery=delivery, encoder=encoder, network=network
        )
        self.reader = Reader(self.topics)
        self.backlog_wanted = 0
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._watchers: list[Callable[[], bool]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.fleet.told(print)
        self.fleet.close()
        self.reader.close()

    @property
    def backlog(self) -> dict[int, int]:
        """Records of each partition that are acknowledged and have no output; empty partitions left out."""
        left = {p: count - self.reader.done[p] for p, count in self.feed.acknowledged.items()}
        return {p: count for p, count in left.items() if count > 0}

    def tick(self) -> None:
        """Moves everything on by about 50 ms."""
        self.reader.read(0.05)
        self.fleet.supervise()
        missing = self.backlog_wanted - (self.feed.sent - self.reader.done.total())
        self.feed.send(min(missing, 100)) if missing > 0 else self.feed.serve()
        now = time.monotonic()
        due = [each for each in self._later if each[0] <= now]
        self._later = [each for each in self._later if each[0] > now]
        for _, action in due:
            action()
        self._watchers = [watch for watch in self._watchers if not watch()]

    def wait(self, condition: Callable[[], object], seconds: float, message: str) -> float:
        """Waits until the condition is true; returns how long that took.

        Raises:
            AssertionError: it did not come true.
        """
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < seconds, f"{message} (waited {seconds} s)"
            self.tick()
        return time.monotonic() - started

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    @property
    def idle(self) -> bool:
        """Whether nothing put off is still to come."""
        return not self._later

    def watch(self, watcher: Callable[[], bool]) -> None:
        """Calls it with every tick until it returns True."""
        self._watchers.append(watcher)

    def moved_since(self, moment: float) -> set[int]:
        """Partitions that had output after that moment."""
        return {partition for partition, at in self.reader.moved.items() if at > moment}

    def everything_moves(self, moment: float) -> Callable[[], bool]:
        """A condition: each partition that has a backlog now has moved since."""
        waiting = set(self.backlog)
        return lambda: waiting <= self.moved_since(moment)

    def drain(self, seconds: float = 120.0) -> None:
        """Lets the daemons finish what was sent, and ends them."""
        self.backlog_wanted = 0
        self.wait(lambda: self.idle, seconds, "a fault does not end")
        self.feed.flush()
        self.wait(self._is_committed, seconds, "the offsets do not reach the end of the topic")
        # What is missing is told by the last check.
        with contextlib.suppress(AssertionError):
            self.wait(lambda: not self.backlog, READER_SECONDS, "")
        for daemon in self.fleet.daemons.values():
            daemon.wanted = False
        for daemon in self.fleet.running:
            assert daemon.process is not None
            daemon.process.terminate()
        self.wait(lambda: not self.fleet.running, 30, "a daemon does not end after SIGTERM")
        self.tick()

    def settle(self) -> None:
        """Ends all that goes on, however it went, so that the topics can be looked at."""
        self.backlog_wanted = 0
        self.fleet.close()
        self.wait(lambda: self.idle, 60, "a fault does not end")

    def committed(self) -> dict[int, int]:
        """The group's offsets, by partition."""
        admin = make_admin(self.topics.kafka)
        partitions = admin.list_topics(timeout=10.0).topics[self.topics.documents].partitions
        found = committed_offsets(self.topics.kafka, self.fleet.group, self.topics.documents, partitions)
        return {partition: each.offset for partition, each in found.items()}

    def check(self) -> tuple[Outcome, list[str]]:
        """The final word, from the topics alone: what was found, and what is wrong with it."""
        bootstrap, topics = self.cluster.bootstrap, self.topics
        inputs = read_all(bootstrap, topics.documents)
        others: list[str] = []
        outcome = check_exactly_once(
            inputs,
            self._looked_at(read_each(bootstrap, topics.embeddings), others),
            read_each(bootstrap, topics.dead_letters),
            self.committed(),
        )
        expected = {}
        for message in inputs:
            number = dict(message.headers() or [])[NUMBER_HEADER]
            reason = self.feed.expected[int(number or -1)]
            if reason is not None:
                expected[message.partition() or 0, message.offset() or 0] = reason
        problems = []
        wrong = ["missing", "unexpected", "disordered", "differing", "untrue"]
        if self.delivery == "exactly-once":
            wrong.append("double")
        for name in wrong:
            found = getattr(outcome, name)
            if found:
                problems.append(f"{len(found)} {name}: {found[:5]}")
        if others:
            problems.append(f"{len(others)} vectors are another text's: {others[:5]}")
        if outcome.reasons != expected:
            different = sorted(outcome.reasons.items() ^ expected.items())
            problems.append(f"dead letters differ from those expected: {dict(different[:5])}")
        if outcome.inputs != self.feed.sent:
            problems.append(f"{self.feed.sent} records were sent, {outcome.inputs} are done")
        if self.reader.doubles and self.delivery == "exactly-once":
            problems.append(
                f"{len(self.reader.doubles)} doubles seen while running: {self.reader.doubles[:5]}"
            )
        if outcome.missing:
            problems += self._traces(set(outcome.missing))[:TRACES]
        return outcome, problems + self.fleet.problems

    def _traces(self, missing: set[tuple[int, int]]) -> list[str]:
        """What there is of the missing: open transactions, output that no reader sees, windows delivered."""
        admin, found = make_admin(self.topics.kafka), []
        for topic in (self.topics.embeddings, self.topics.dead_letters):
            partitions = admin.list_topics(timeout=10.0).topics[topic].partitions
            stable = end_offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
            for partition, end in end_offsets(admin, topic, partitions).items():
                if end > stable[partition]:
                    found.append(
                        f"{topic}/{partition}: a transaction is open from {stable[partition]} to {end}"
                    )
            for message in read_each(self.cluster.bootstrap, topic, "read_uncommitted"):
                if source_of(message) in missing:
                    place = f"{topic}/{message.partition()}/{message.offset()} at {message.timestamp()[1]}"
                    found.append(f"{place}: output of {source_of(message)}, not committed")
        for daemon in self.fleet.daemons.values():
            for event in daemon.events("window_delivered"):
                for partition, offset in missing:
                    first, last = event["offsets"].get(str(partition), (0, -1))
                    if first <= offset <= last:
                        found.append(f"{daemon.name}: {event}")
        return found

    def _looked_at(self, embeddings: Iterable[Message], others: list[str]) -> Iterator[Message]:
        """Passes them on; adds to `others` those whose vector is not that of their text."""
        splitter = HashEncoder().splitter
        for message in embeddings:
            value = message.value()
            if value is not None:
                record = decode("embedding", value)
                (passage,) = splitter.split_many([record["text"]])[0].passages
                if record["vector"] != vector_of(passage.token_ids).tolist():
                    others.append(f"{message.partition()}/{message.offset()}")
            yield message

    def _is_committed(self) -> bool:
        name, admin = self.topics.documents, make_admin(self.topics.kafka)
        partitions = admin.list_topics(timeout=10.0).topics[name].partitions
        ends = end_offsets(admin, name, partitions, IsolationLevel.READ_COMMITTED)
        committed = self.committed()
        return all(committed.get(partition, 0) >= end for partition, end in ends.items())
