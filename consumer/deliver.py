"""The deliver stage: produces and commits windows one at a time, in the order they were read.

The stage itself is the same for both guarantees; how a window lands is `consumer.transaction` (exactly once)
or `consumer.plain_commit` (at least once).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from consumer.dead_letter_limit import DeadLetterLimit
from consumer.encoder import ModelInfo
from consumer.outbound import ItemRecords, OutputLayout, build_records
from consumer.ownership import Ownership
from consumer.queues import BoundedQueue, Closed
from consumer.records import Deletion, EmbeddedWindow, EndOfPartition, Item, SplitDocument, polled
from embedstream.errors import FencedError, ServiceUnavailableError, TryAgainError
from embedstream.logs import get_logger
from embedstream.metrics import Metrics

__all__ = ["Deliverer", "Delivery", "NotDelivered"]

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0

_log = get_logger("deliver")


class NotDelivered(Exception):
    """The attempt had no effect; the same window may be delivered again."""


class Delivery(Protocol):
    """One way to deliver a window."""

    def prepare(self) -> None:
        """Gets ready to deliver; called once, before the daemon joins the group."""
        ...

    def has_rival(self) -> bool:
        """Whether another daemon has taken over our identity since `prepare`."""
        ...

    def deliver(self, items: Sequence[ItemRecords]) -> None:
        """Produces the records of all items and commits their offsets, all or nothing where it can.

        Raises:
            NotDelivered: nothing was committed; try again.
            EmbedstreamError: this daemon can't go on.
        """
        ...

    def close(self) -> None:
        """Lets go of the producer."""
        ...


@dataclass(frozen=True, slots=True)
class _Built:
    """A window with the records that it becomes, and the seconds that making them took."""

    number: int
    items: list[ItemRecords]
    seconds: float


class Deliverer:
    """Takes embedded windows and sees each one through, as long as its partitions are ours."""

    def __init__(
        self,
        embedded: BoundedQueue[EmbeddedWindow],
        delivery: Delivery,
        ownership: Ownership,
        limit: DeadLetterLimit,
        layout: Callable[[], OutputLayout],
        model: ModelInfo,
        metrics: Metrics,
        *,
        store_text: bool,
        fenced: Callable[[], bool],
        giving_up: Callable[[], bool],
        moved: Callable[[], None],
    ) -> None:
        """Connects the stage.

        Args:
            embedded: windows, in the order they were read.
            delivery: how a window lands.
            ownership: knows which records are still ours.
            limit: judges a window before it is delivered.
            layout: looks at the topics and says where output goes; before a window is built or tried again.
            model: stands in every record.
            metrics: counts what was committed.
            store_text: whether an embedding carries its passage's text.
            fenced: whether the group has given our instance id to another member.
            giving_up: once true, a window that can't be delivered is not tried again.
            moved: called when a window is taken and after each attempt to deliver it.
        """
        self._embedded = embedded
        self._delivery = delivery
        self._ownership = ownership
        self._limit = limit
        self._layout = layout
        self._model = model
        self._metrics = metrics
        self._store_text = store_text
        self._fenced = fenced
        self._giving_up = giving_up
        self._moved = moved
        self._busy = False
        self._held: list[_Built] = []
        # Under which assignment the end of a partition was seen, with nothing after it.
        self._ends: dict[tuple[str, int], int] = {}
        metrics.queue_depth.labels(stage="deliver").set_function(lambda: len(embedded))

    @property
    def has_work(self) -> bool:
        """Whether an embedded window waits or is being delivered; one that is held back does not count."""
        return self._busy or len(self._embedded) > 0

    def run(self) -> None:
        """Works until the queue of embedded windows is closed.

        Raises:
            FencedError: the group has given our instance id to another daemon.
            TryAgainError: it has given it to a join of our own.
        """
        try:
            while True:
                embedded = self._embedded.get(0.1)
                if self._fenced():
                    self._end_fenced()
                if embedded is not None:
                    self._busy = True
                    self._take(embedded)
                self._deliver_held()
                self._busy = False
        except Closed:
            pass
        finally:
            self._busy = False
            self._embedded.close(discard=True)
            self._delivery.close()

    def _end_fenced(self) -> NoReturn:
        """A rival takes our identity as a producer before it joins, so it can be told from ourselves.

        A join whose connection was given up may still reach the broker, after the one that took its place:
        then the broker fences the only daemon there is (Apache Kafka's issue 20985).
        """
        if self._delivery.has_rival():
            raise FencedError(
                "another daemon with this consumer.instance_id is in the group",
                "give every daemon an instance id of its own (--instance-id)",
            )
        raise TryAgainError("the group has fenced this daemon, and it has no rival", "start it again")

    def _take(self, embedded: EmbeddedWindow) -> None:
        """Builds the window's records (once: delivered again, it is the same bytes) and judges them.

        Raises:
            TooManyDeadLettersError: neither this window nor one that is held back may be delivered.
        """
        self._moved()
        started = time.monotonic()
        layout = self._look_at_topics()
        items = build_records(
            embedded,
            layout,
            self._model,
            store_text=self._store_text,
            now_ms=time.time_ns() // 1_000_000,
        )
        self._limit.judge(items)
        self._note_ends(items)
        self._held.append(_Built(embedded.window.number, items, time.monotonic() - started))
        if self._limit.is_undecided and len(self._held) == 1:
            _log.info(
                "window_held_back",
                window=embedded.window.number,
                offsets=_offsets(items),
                why="too many dead letters so far",
            )

    def _look_at_topics(self) -> OutputLayout:
        """Where output goes; waits for a broker to tell.

        Raises:
            ConfigError: the topics are not those of the start any more.
            TryAgainError: no broker tells, and the daemon is to end.
        """
        waited = False
        while True:
            try:
                return self._layout()
            except ServiceUnavailableError as error:
                if self._giving_up():
                    raise _late(error) from None
                if not waited:
                    _log.warning("waiting_for_topics", error=str(error))
            finally:
                self._moved()
            waited = True
            time.sleep(FIRST_PAUSE_SECONDS)

    def _deliver_held(self) -> None:
        """Delivers what is held back, unless it is still to be seen whether it may be."""
        if self._limit.is_undecided and not self._partitions_have_ended():
            return
        for built in self._held:
            self._busy = True
            self._deliver(built)
        self._held.clear()

    def _note_ends(self, items: Sequence[ItemRecords]) -> None:
        for each in items:
            source = polled(each.item)
            if isinstance(source, EndOfPartition):
                self._ends[source.topic, source.partition] = source.assignment
            else:
                self._ends.pop((source.topic, source.partition), None)

    def _partitions_have_ended(self) -> bool:
        """Whether all was read of every partition that is ours, so that nothing more comes to judge by.

        Those of the held windows alone would not do: one partition is often read to its end before the first
        record of the next comes.
        """
        number = self._ownership.number
        return all(self._ends.get(each) == number(each) for each in self._ownership.partitions)

    def _deliver(self, built: _Built) -> None:
        started = time.monotonic() - built.seconds
        items = built.items
        pause = FIRST_PAUSE_SECONDS
        while True:
            kept = self._ownership.open_transaction([each.item for each in items])
            if not kept:
                why = "its partitions were taken away"
                _log.info("window_dropped", window=built.number, offsets=_offsets(items), why=why)
                return
            ours = items if len(kept) == len(items) else _those_of(kept, items)
            try:
                self._delivery.deliver(ours)
                break
            except NotDelivered as error:
                self._metrics.transactions_total.labels(result="aborted").inc()
                _log.warning(
                    "window_not_delivered", window=built.number, offsets=_offsets(ours), why=str(error)
                )
                if self._giving_up():
                    # The stage ends here: the next window's offsets would cover this one's records.
                    raise _late(error) from None
            finally:
                self._moved()
                self._ownership.close_transaction()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._look_at_topics()
        self._account(ours, built.number, started)

    def _account(self, items: Sequence[ItemRecords], window: int, started: float) -> None:
        """Counts what was committed, and says so in one line."""
        metrics = self._metrics
        passages = newest = size = 0
        results: Counter[str] = Counter()
        for each in items:
            if isinstance(each.item, EndOfPartition):
                continue
            source = each.item.input
            newest = max(newest, source.timestamp)
            size += len(source.value or b"")
            if each.failure is not None:
                results["dead_letter"] += 1
                metrics.dead_letters_total.labels(reason=each.failure.reason.value).inc()
            elif isinstance(each.item, Deletion):
                results["deletion"] += 1
            elif isinstance(each.item, SplitDocument):
                passages += len(each.records)
                results["ok"] += 1
        for result, count in results.items():
            metrics.records_total.labels(stage="deliver", result=result).inc(count)
        now = time.time()
        metrics.passages_total.inc(passages)
        metrics.input_bytes_total.inc(size)
        metrics.transactions_total.labels(result="committed").inc()
        metrics.last_commit_timestamp_seconds.set(now)
        if newest:
            metrics.record_age_seconds.set(max(0.0, now - newest / 1000))
        seconds = time.monotonic() - started
        metrics.stage_duration_seconds.labels(stage="deliver").observe(seconds)
        _log.info(
            "window_delivered",
            window=window,
            offsets=_offsets(items),
            records=results.total(),
            passages=passages,
            dead_letters=results["dead_letter"],
            seconds=round(seconds, 3),
        )


def _offsets(items: Sequence[ItemRecords]) -> dict[int, list[int]]:
    """The first and last offset of each partition, for the log."""
    offsets: dict[int, list[int]] = {}
    for each in items:
        if not isinstance(each.item, EndOfPartition):
            source = each.item.input
            offsets.setdefault(source.partition, [source.offset, 0])[1] = source.offset
    return offsets


def _those_of(kept: Sequence[Item], items: Sequence[ItemRecords]) -> list[ItemRecords]:
    wanted = {id(item) for item in kept}
    return [each for each in items if id(each.item) in wanted]


def _late(error: Exception) -> TryAgainError:
    return TryAgainError(
        f"a window could not be delivered any more ({error})", "start the daemon again: it is read again"
    )
