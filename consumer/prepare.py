"""The decode and split stages: from polled records to windows of passages, on one thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from consumer.cache import VectorCache
from consumer.queues import BoundedQueue, Closed
from consumer.records import Deletion, EndOfPartition, Input, Item, Polled, Refused, SplitDocument, Window
from consumer.split import Split, Splitter
from consumer.windows import WindowBuilder
from embedstream.metrics import Metrics
from embedstream.rate import RateLimit
from schemas.dead_letter import Reason
from schemas.deletion import deletion_version
from schemas.document_parts import DocumentParts, read_parts
from schemas.wire import WireError

__all__ = ["Decoded", "Preparer", "decode", "split"]

Decoded: TypeAlias = tuple[Input, DocumentParts] | Refused | Deletion | EndOfPartition

# Enough texts at once for the tokenizer's threads, few enough that a window is not overshot by much.
CHUNK_RECORDS = 1024
CHUNK_BYTES = 512 * 1024
IDLE_SECONDS = 0.5
LOOK_SECONDS = 0.01
HELD_SECONDS = 0.1


class Preparer:
    """Reads polled records, decodes and splits them, and closes windows."""

    def __init__(
        self,
        inputs: BoundedQueue[Polled],
        windows: BoundedQueue[Window],
        builder: WindowBuilder,
        splitter: Splitter,
        metrics: Metrics,
        *,
        current: Callable[[Sequence[Polled]], list[Polled]],
        tokens_per_second: Callable[[], float | None],
        encoder_is_idle: Callable[[], bool],
        moved: Callable[[], None],
        limit: RateLimit,
        cache: VectorCache | None = None,
    ) -> None:
        """Connects the stage.

        Args:
            inputs: what was polled.
            windows: where windows go.
            builder: closes them.
            splitter: cuts documents.
            metrics: times the work.
            current: leaves out inputs of partitions that were taken away since; encoding them would cost as
                much as it is worth nothing.
            tokens_per_second: the encoder's rate, None until it is measured.
            encoder_is_idle: whether it waits for a window.
            moved: called when records are taken and when they are split, or held back on purpose.
            limit: of the document bytes that are taken.
            cache: where windows are looked up.
        """
        self._inputs = inputs
        self._windows = windows
        self._builder = builder
        self._splitter = splitter
        self._metrics = metrics
        self._current = current
        self._rate = tokens_per_second
        self._encoder_is_idle = encoder_is_idle
        self._moved = moved
        self._limit = limit
        self._taken = 0
        self._cache = cache
        self._busy = False
        metrics.queue_depth.labels(stage="decode").set_function(lambda: inputs.cost)

    @property
    def is_busy(self) -> bool:
        """Whether it has taken records that are not in a window yet or in one that finds no room."""
        return self._busy

    def run(self) -> None:
        """Works until the input queue is closed, then closes the queue of windows."""
        try:
            while True:
                self._step()
        except Closed:
            pass
        finally:
            self._windows.close()

    def _step(self) -> None:
        chunk = self._next_chunk()
        rate = self._rate()
        if rate is not None:
            self._builder.measured(rate)
        self._busy = bool(chunk)
        items = self._prepared(chunk)
        now = time.monotonic()
        for item in items:
            window = self._builder.add(item, now)
            if window is not None:
                self._put(window)
        self._busy = False
        if self._encoder_is_idle():
            window = self._builder.idle(time.monotonic())
            if window is not None:
                self._put(window)

    def _next_chunk(self) -> list[Polled]:
        """What is there, at most a chunk; waits for a first record as long as no window must be closed."""
        left = self._builder.seconds_left(time.monotonic())
        # While the encoder is busy the window may grow: look again only now and then.
        wait = IDLE_SECONDS if left is None else max(left, LOOK_SECONDS)
        held = self._limit.seconds_left(self._taken)
        if held and not self._inputs.is_closed:
            self._moved()
            time.sleep(min(held, wait, HELD_SECONDS))
            return []
        size = int(min(CHUNK_BYTES, self._limit.burst))
        chunk = self._current(self._inputs.get_some(wait, CHUNK_RECORDS, size))
        self._taken += sum(each.size for each in chunk)
        return chunk

    def _prepared(self, chunk: Sequence[Polled]) -> list[Item]:
        if not chunk:
            return []
        self._moved()
        with self._metrics.stage_duration_seconds.labels(stage="decode").time():
            decoded = [each if isinstance(each, EndOfPartition) else decode(each) for each in chunk]
        self._count("decode", decoded)
        with self._metrics.stage_duration_seconds.labels(stage="split").time():
            items = split(decoded, self._splitter)
        self._count("split", items)
        for item in items:
            if isinstance(item, SplitDocument) and item.truncated:
                self._metrics.truncated_total.inc()
        self._moved()
        return items

    def _count(self, stage: str, items: Sequence[object]) -> None:
        kinds = Counter(map(type, items))
        refused, deleted = kinds[Refused], kinds[Deletion]
        done = len(items) - refused - deleted - kinds[EndOfPartition]
        results = {"ok": done, "dead_letter": refused, "deletion": deleted}
        for result, count in results.items():
            if count:
                self._metrics.records_total.labels(stage=stage, result=result).inc(count)

    def _put(self, window: Window) -> None:
        # Found out on this thread: the device need not wait for it.
        _ = window.distinct
        if self._cache is not None:
            self._cache.look_up(window)
        self._windows.put(window)


def decode(record: Input) -> Decoded:
    """Reads a record; what can't be read becomes a refusal, a null value a deletion."""
    if record.value is None:
        version = deletion_version(record.headers)
        # A tombstone of another producer has no version: the broker's time of it is when the document went.
        return Deletion(record, record.timestamp if version is None else version)
    try:
        return record, read_parts(record.value)
    except WireError as error:
        return Refused(record, Reason(error.reason), str(error))


def split(decoded: Sequence[Decoded], splitter: Splitter) -> list[Item]:
    """Cuts all documents of a chunk in one call, so that the tokenizer's threads share them."""
    texts = [each[1].content for each in decoded if isinstance(each, tuple)]
    splits = iter(_split_each(texts, splitter))
    items: list[Item] = []
    for each in decoded:
        if not isinstance(each, tuple):
            items.append(each)
            continue
        record, document = each
        cut = next(splits)
        if isinstance(cut, Exception):
            items.append(_refused(record, document, Reason.ENCODE_FAILED, f"the tokenizer failed: {cut}"))
        elif not cut.passages:
            items.append(_refused(record, document, Reason.EMPTY, "the document has no text to embed"))
        else:
            items.append(SplitDocument(record, document, cut.passages, cut.truncated))
    return items


def _split_each(texts: Sequence[str], splitter: Splitter) -> Sequence[Split | Exception]:
    try:
        return splitter.split_many(texts)
    except Exception as error:
        # One text must not cost its neighbours: find it by halves.
        if len(texts) == 1:
            return [error]
        half = len(texts) // 2
        return [*_split_each(texts[:half], splitter), *_split_each(texts[half:], splitter)]


def _refused(record: Input, document: DocumentParts, reason: Reason, message: str) -> Refused:
    return Refused(record, reason, message, document.id, document.version)
