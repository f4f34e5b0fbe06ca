"""Makes the stages of a daemon, each with the queues beside it: prepare, embed, deliver."""

from __future__ import annotations

from collections.abc import Callable

from consumer.cache import VectorCache
from consumer.dead_letter_limit import DeadLetterLimit
from consumer.deliver import Deliverer, Delivery
from consumer.embed import Embedder
from consumer.encoder import Encoder
from consumer.gpu import watch_gpu
from consumer.ownership import Ownership
from consumer.poll import Poller
from consumer.prepare import Preparer
from consumer.queues import BoundedQueue
from consumer.records import EmbeddedWindow, Polled, Window
from consumer.topics import Topics
from consumer.windows import WindowBuilder
from embedstream.metrics import Metrics
from embedstream.rate import RateLimit
from embedstream.settings import Settings

__all__ = ["make_deliverer", "make_embedder", "make_preparer"]

# The first window, before a rate is known: enough batches to measure one.
FIRST_BATCHES = 8


def make_embedder(
    settings: Settings,
    metrics: Metrics,
    encoder: Encoder,
    queues: tuple[BoundedQueue[Window], BoundedQueue[EmbeddedWindow]],
    cache: VectorCache | None,
    *,
    stopping: Callable[[], bool],
    moved: Callable[[], None],
) -> Embedder:
    """The stage that encodes windows, with its gauges; `queues` are those before and behind it."""
    windows, embedded = queues
    embedder = Embedder(windows, embedded, encoder, metrics, stopping=stopping, moved=moved, cache=cache)
    watch_gpu(metrics, encoder.info, settings.encoder, embedder.tokens_per_second, embedder.passage_tokens)
    return embedder


def make_preparer(
    settings: Settings,
    metrics: Metrics,
    encoder: Encoder,
    queues: tuple[BoundedQueue[Polled], BoundedQueue[Window]],
    ownership: Ownership,
    embedder: Embedder,
    cache: VectorCache | None,
    *,
    moved: Callable[[], None],
) -> Preparer:
    """The stage that decodes and splits records into windows; `queues` are those before and behind it."""
    inputs, windows = queues
    consumer = settings.consumer
    builder = WindowBuilder(
        seconds=consumer.window_seconds,
        size=consumer.window_bytes,
        linger=consumer.linger_seconds,
        first_tokens=FIRST_BATCHES * encoder.token_budget,
    )
    return Preparer(
        inputs,
        windows,
        builder,
        encoder.splitter,
        metrics,
        current=ownership.current,
        tokens_per_second=embedder.tokens_per_second,
        encoder_is_idle=embedder.is_idle,
        moved=moved,
        limit=RateLimit(consumer.rate),
        cache=cache,
    )


def make_deliverer(
    settings: Settings,
    metrics: Metrics,
    encoder: Encoder,
    embedded: BoundedQueue[EmbeddedWindow],
    delivery: Delivery,
    ownership: Ownership,
    topics: Topics,
    poller: Poller,
    *,
    giving_up: Callable[[], bool],
    moved: Callable[[], None],
) -> Deliverer:
    """The stage that delivers what is encoded, one window at a time."""
    consumer = settings.consumer
    return Deliverer(
        embedded,
        delivery,
        ownership,
        DeadLetterLimit(consumer.max_dead_letter_ratio, consumer.dead_letter_span),
        topics.confirm,
        encoder.info,
        metrics,
        store_text=consumer.store_text,
        fenced=poller.is_fenced,
        giving_up=giving_up,
        moved=moved,
    )
