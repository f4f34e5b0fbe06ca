"""Every metric, declared once: name, help, unit, labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from embedstream import __version__
from embedstream.errors import ConfigError
from embedstream.logs import get_logger
from embedstream.settings import MetricsSettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Metrics", "Page", "serve"]

Page: TypeAlias = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Says whether all is well, and the document that tells why."""

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
_PASSAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_log = get_logger("metrics")


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        # Flow. stage: decode, split, encode, deliver; result: ok, dead_letter, deletion.
        self.records_total = counter("records", "Input records that left a stage", ("stage", "result"))
        self.passages_total = counter("passages", "Passages whose embeddings were committed")
        self.tokens_total = counter("tokens", "Tokens encoded, special tokens included, without padding")
        self.truncated_total = counter("truncated", "Documents cut to their first passage")
        self.duplicate_passages_total = counter(
            "duplicate_passages", "Passages whose vector was taken from an equal one in the same window"
        )
        # The cache. result of a request: hit, recent (encoded a moment ago), miss, invalid (no vector of this
        # model), error (Redis failed), skipped (not asked, since it failed); of a write: stored, error or
        # skipped.
        self.cache_requests_total = counter("cache_requests", "Distinct passages looked up", ("result",))
        self.cache_writes_total = counter("cache_writes", "Vectors to be kept in the cache", ("result",))
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch, padding included", _TOKENS)
        self.batch_passages = histogram("batch_passages", "Passages of a batch", _PASSAGES)
        self.padding_ratio = gauge(
            "padding_ratio", "Share of the last window's computed tokens that is padding"
        )

        # The corpus. result: sent, deleted, unchanged, duplicate, refused; for bytes: read, unchanged.
        self.documents_total = counter(
            "documents", "Documents of the corpus by what became of them", ("result",)
        )
        self.corpus_bytes_total = counter(
            "corpus_bytes", "Bytes of the corpus's files that were read, or need not be", ("result",)
        )

        # Time.
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "Time a stage took: decode and split for a batch of records, the others for a window",
            _SECONDS,
            ("stage",),
        )
        self.last_commit_timestamp_seconds = gauge(
            "last_commit_timestamp_seconds", "When offsets were last committed (Unix time)"
        )
        self.record_age_seconds = gauge(
            "record_age_seconds", "Age of the newest record in the last window when it was committed"
        )

        # Progress. stage: input (bytes), split (windows), encoded (windows).
        self.queue_depth = gauge("queue_depth", "What waits before a stage: bytes or windows", ("stage",))

        # Liveness. clock: polling, progressing, in_group.
        self.clock_age_seconds = gauge(
            "clock_age_seconds", "Time since a clock of /healthz moved; 0 before it begins", ("clock",)
        )

        # Failures.
        self.dead_letters_total = counter("dead_letters", "Records that became dead letters", ("reason",))
        self.expired_records_total = counter(
            "expired_records", "Offsets skipped because their records were deleted unread", ("partition",)
        )
        self.rebalances_total = counter("rebalances", "Changes of the assignment", ("kind",))
        self.transactions_total = counter("transactions", "Transactions (or commits) by outcome", ("result",))
        self.oom_splits_total = counter("oom_splits", "Batches halved because the device ran out of memory")

        # Identity.
        self.model_info = Info(
            "model", "The model and how it runs", namespace="embedstream", registry=self.registry
        )
        build = Info("build", "The program", namespace="embedstream", registry=self.registry)
        build.info({"version": __version__})

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, namespace="embedstream", registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace="embedstream", registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(name, text, labels, namespace="embedstream", registry=self.registry, buckets=buckets)


def serve(metrics: Metrics, settings: MetricsSettings, pages: Mapping[str, Page] | None = None) -> None:
    """Serves `/metrics` in a daemon thread, unless the port is -1.

    Args:
        metrics: what `/metrics` shows.
        settings: where to listen.
        pages: more paths, each a JSON document: with status 200 if all is well, 503 if not.

    Raises:
        ConfigError: the address can't be listened on.
    """
    if settings.port < 0:
        return
    try:
        server, _ = start_http_server(settings.port, settings.host, metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"metrics.host {settings.host} with metrics.port {settings.port} can't be listened on"
            f" ({error.strerror})",
            "set another --metrics-port (0 takes a free one, -1 none)",
        ) from None
    others = server.get_app()
    assert others is not None
    server.set_app(_application(pages or {}, others))
    _log.info("metrics_listening", host=settings.host, port=server.server_port)


def _application(pages: Mapping[str, Page], others: WSGIApplication) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            return others(environ, start_response)
        well, document = page()
        status = "200 OK" if well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps(document).encode() + b"\n"]

    return application
