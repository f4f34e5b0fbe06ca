"""Every metric, declared once: name, help, unit, labels and who exports it.

    metrics = Metrics("consumer")
    metrics.records_total.labels(stage="deliver", result="ok").inc(7)

The class body is the table. A label's values are a closed set, and each of its series is there from the start
with 0, so that a rate is right from the first event on; labels marked `OPEN` (names of topics and groups,
numbers of partitions) are bounded by what one daemon reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from embedstream import __version__
from schemas.dead_letter import Reason

__all__ = ["OPEN", "PREFIX", "Declared", "Metrics", "Role", "declared"]

PREFIX = "embedstream_"
Role: TypeAlias = Literal["consumer", "producer", "gpu", "fleet"]
Labels: TypeAlias = Mapping[str, tuple[str, ...]]
AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram, Info)

OPEN = ("...",)
"""The values of a label that come from outside: a topic, a group, a partition."""

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
_PASSAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_STAGES = ("decode", "split", "encode", "deliver")
_OUTCOMES = ("ok", "dead_letter", "deletion")
_JOB: Labels = {"group": OPEN, "topic": OPEN}
_FLEET: Labels = {"fleet": OPEN}
# What a document of the corpus is refused for; a test compares it with the producer's own list.
_REFUSALS = (
    *("not_json", "not_an_object", "nested_too_deep", "no_content", "empty", "content_not_text", "not_utf8"),
    *("lone_surrogate", "wrong_hash", "bad_id", "bad_front_matter", "bad_sidecar", "no_column", "too_large"),
    *("unreadable", "vanished", "truncated", "corrupt", "expands_too_much", "changed", "extra_missing"),
    "not_delivered",
)


class Declared(Generic[AnyMetric]):
    """One row of the table; on an instance of `Metrics`, the metric itself.

    Attributes:
        name: Of the metric, without the prefix.
        unit: What it counts or measures in.
        roles: Who exports it.
        labels: Each label's values.
    """

    def __init__(
        self,
        kind: type[AnyMetric],
        text: str,
        unit: str,
        labels: Labels | None = None,
        *,
        roles: tuple[Role, ...] = ("consumer",),
        buckets: tuple[float, ...] | None = None,
    ) -> None:
        self.kind: Any = kind
        self.text = text
        self.unit = unit
        self.labels = labels or {}
        self.roles = roles
        self._buckets = buckets
        self.name = ""

    def __set_name__(self, owner: type[Metrics], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Metrics]) -> Self: ...
    @overload
    def __get__(self, instance: Metrics, owner: type[Metrics]) -> AnyMetric: ...
    def __get__(self, instance: Metrics | None, owner: type[Metrics]) -> Self | AnyMetric:
        # Only reached for a metric of another role: it counts, and nobody sees it.
        if instance is None:
            return self
        hidden: AnyMetric = instance.add(self, None)
        return hidden

    def make(self, registry: CollectorRegistry | None) -> AnyMetric:
        """The metric, with all series of its closed labels at 0."""
        more: dict[str, Any] = {} if self._buckets is None else {"buckets": self._buckets}
        # An Info's series gets its suffix from the client, a counter's is known to it.
        name = PREFIX + (self.name.removesuffix("_info") if self.kind is Info else self.name)
        # An Info takes its labels with their values.
        labels = () if self.kind is Info else tuple(self.labels)
        metric: AnyMetric = self.kind(name, self.text, labels, registry=registry, **more)
        if self.labels and OPEN not in self.labels.values():
            for values in itertools.product(*self.labels.values()):
                metric.labels(*values)
        return metric


class Metrics:
    """The metrics of one process, in a registry of their own."""

    # Flow.
    records_total = Declared(
        Counter, "Input records that left a stage", "records", {"stage": _STAGES, "result": _OUTCOMES}
    )
    passages_total = Declared(Counter, "Passages whose embeddings were committed", "passages")
    tokens_total = Declared(Counter, "Tokens encoded, special tokens included, without padding", "tokens")
    input_bytes_total = Declared(Counter, "Bytes of the values of committed input records", "bytes")
    truncated_total = Declared(Counter, "Documents cut to their first passage", "documents")
    duplicate_passages_total = Declared(
        Counter, "Passages whose vector was taken from an equal one in the same window", "passages"
    )
    batch_tokens = Declared(Histogram, "Tokens of a batch, padding included", "tokens", buckets=_TOKENS)
    batch_passages = Declared(Histogram, "Passages of a batch", "passages", buckets=_PASSAGES)
    padding_ratio = Declared(Gauge, "Share of the last window's computed tokens that is padding", "ratio")

    # The corpus.
    documents_total = Declared(
        Counter,
        "Documents of the corpus by what became of them",
        "documents",
        {"result": ("sent", "deleted", "unchanged", "duplicate", "refused")},
        roles=("producer",),
    )
    corpus_bytes_total = Declared(
        Counter,
        "Bytes of the corpus's files that were read, or need not be",
        "bytes",
        {"result": ("read", "unchanged")},
        roles=("producer",),
    )
    corpus_size_bytes = Declared(
        Gauge, "Bytes of all files of the corpus; NaN until they are added up", "bytes", roles=("producer",)
    )
    refused_documents_total = Declared(
        Counter,
        "Documents that were refused, by reason",
        "documents",
        {"reason": _REFUSALS},
        roles=("producer",),
    )
    produced_records_total = Declared(
        Counter, "Records handed to the Kafka client", "records", roles=("producer",)
    )

    # Time.
    stage_duration_seconds = Declared(
        Histogram,
        "Time a stage took: decode and split for a batch of records, the others for a window",
        "seconds",
        {"stage": (*_STAGES, "recall")},
        buckets=_SECONDS,
    )
    last_commit_timestamp_seconds = Declared(
        Gauge, "When offsets were last committed (Unix time); 0 before the first commit", "seconds"
    )
    record_age_seconds = Declared(
        Gauge, "Age of the newest record in the last window when it was committed", "seconds"
    )

    # Progress: of the whole group, told by each of its daemons from Kafka.
    consumer_lag_records = Declared(
        Gauge,
        "Offsets between what the group has committed and the end of the partition",
        "records",
        {**_JOB, "partition": OPEN},
    )
    job_start_end_offset = Declared(
        Gauge,
        "End of the partition when the job began: what percent done is a share of",
        "offset",
        {**_JOB, "partition": OPEN},
    )
    job_start_timestamp_seconds = Declared(Gauge, "When this job's ends were taken", "seconds", _JOB)
    job_progress_ratio = Declared(
        Gauge, "Share of the bytes before the job's ends that is committed", "ratio", _JOB
    )
    job_bytes = Declared(
        Gauge,
        "Bytes of documents before the job's ends, from a sample of the topic",
        "bytes",
        {**_JOB, "state": ("done", "total")},
    )
    job_bytes_per_second = Declared(Gauge, "Rate of the group over a recent window", "bytes/s", _JOB)
    job_time_left_seconds = Declared(
        Gauge,
        "Until the job's ends are committed; NaN while no rate is known, +Inf while nothing moves",
        "seconds",
        {**_JOB, "bound": ("low", "likely", "high")},
    )
    progress_errors_total = Declared(Counter, "Looks at the group's progress that got no answer", "looks")
    queue_depth = Declared(
        Gauge,
        "What waits before a stage: bytes before decode, windows before encode and deliver",
        "bytes or windows",
        {"stage": ("decode", "encode", "deliver")},
    )

    # Liveness.
    clock_age_seconds = Declared(
        Gauge,
        "Time since a clock of /healthz moved; 0 before it begins",
        "seconds",
        {"clock": ("polling", "progressing", "in_group")},
    )

    # Failures.
    dead_letters_total = Declared(
        Counter,
        "Records that became dead letters",
        "records",
        {"reason": tuple(each.value for each in Reason)},
    )
    expired_records_total = Declared(
        Counter,
        "Offsets skipped because their records were deleted unread",
        "records",
        {"partition": OPEN},
    )
    rebalances_total = Declared(
        Counter, "Changes of the assignment", "changes", {"kind": ("assigned", "revoked", "lost")}
    )
    transactions_total = Declared(
        Counter, "Transactions (or commits) by outcome", "transactions", {"result": ("committed", "aborted")}
    )
    oom_splits_total = Declared(Counter, "Batches halved because the device ran out of memory", "batches")
    cache_requests_total = Declared(
        Counter,
        "Distinct passages looked up in the cache",
        "passages",
        # recent: encoded a moment ago; invalid: no vector of this model; skipped: not asked, since it failed.
        {"result": ("hit", "recent", "miss", "invalid", "error", "skipped")},
    )
    cache_writes_total = Declared(
        Counter, "Vectors to be kept in the cache", "vectors", {"result": ("stored", "error", "skipped")}
    )
    metrics_refused_total = Declared(
        Counter,
        "Requests for /metrics without the right bearer token",
        "requests",
        {"reason": ("missing", "wrong")},
        roles=("consumer", "producer"),
    )

    # The device; absent where there is no GPU.
    gpu_memory_used_bytes = Declared(
        Gauge, "Memory of the GPU that is in use, by anyone", "bytes", roles=("gpu",)
    )
    gpu_memory_reserved_bytes = Declared(
        Gauge, "Memory of the GPU that this process has reserved", "bytes", roles=("gpu",)
    )
    gpu_memory_total_bytes = Declared(Gauge, "Memory of the GPU", "bytes", roles=("gpu",))
    gpu_utilization_ratio = Declared(
        Gauge, "Share of the last moments in which the GPU computed; NaN if not told", "ratio", roles=("gpu",)
    )
    model_flops_utilization_ratio = Declared(
        Gauge,
        "Share of the GPU's peak that the model's own operations make up while it encodes",
        "ratio",
        roles=("gpu",),
    )

    # Money.
    price_dollars_per_hour = Declared(
        Gauge, "What this machine costs; NaN where no price is set", "dollars/h"
    )
    cost_dollars_total = Declared(
        Counter, "What this daemon has cost, its earlier lives under the same instance id included", "dollars"
    )
    group_cost_dollars = Declared(
        Gauge, "What all daemons of the group have cost, those that are gone included", "dollars", _JOB
    )
    group_cost_projected_dollars = Declared(
        Gauge, "What the group will have cost when the job's ends are committed", "dollars", _JOB
    )
    group_cost_dollars_per_million_tokens = Declared(
        Gauge,
        "What a million tokens have cost the group so far; NaN before the first",
        "dollars/million tokens",
        _JOB,
    )
    budget_dollars = Declared(Gauge, "What may be spent; NaN where no budget is set", "dollars")

    # The rented pods, as RunPod tells of them; exported by `fleet sd`.
    fleet_pods = Declared(
        Gauge,
        "Pods by status",
        "pods",
        {"fleet": OPEN, "status": ("PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR")},
        roles=("fleet",),
    )
    fleet_price_dollars_per_hour = Declared(Gauge, "Of all pods now", "dollars/h", _FLEET, roles=("fleet",))
    fleet_cost_dollars = Declared(
        Gauge, "Of all pods so far, those that are gone included", "dollars", _FLEET, roles=("fleet",)
    )

    # Identity.
    consumer_info = Declared(
        Info,
        "The group and topic of this daemon",
        "info",
        {
            **_JOB,
            "instance_id": OPEN,
            "embeddings_topic": OPEN,
            "delivery": ("exactly-once", "at-least-once"),
        },
    )
    model_info = Declared(
        Info,
        "The model and how it runs",
        "info",
        dict.fromkeys(
            (
                *("model", "fingerprint", "splitter", "dim", "max_tokens", "precision", "attention"),
                *("layout", "compiled", "refused", "device", "token_budget"),
            ),
            OPEN,
        ),
    )
    build_info = Declared(Info, "The program", "info", {"version": OPEN}, roles=("consumer", "producer"))

    def __init__(self, role: Role = "consumer") -> None:
        """Declares the metrics that a process of this role exports."""
        # When each series began is what process_start_time_seconds tells.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.enable(role)
        self.build_info.info({"version": __version__})

    def enable(self, role: Role) -> None:
        """Exports the metrics of one more role: `gpu` where there is one."""
        for row in declared():
            if role in row.roles and row.name not in vars(self):
                self.add(row, self.registry)

    def add(self, row: Declared[Any], registry: CollectorRegistry | None) -> Any:
        """Makes one metric; without a registry it is not exported."""
        metric = row.make(registry)
        # Found before the row itself from now on: using a metric costs no more than an attribute.
        vars(self)[row.name] = metric
        return metric


def declared() -> list[Declared[Any]]:
    """The rows of the table, in order."""
    return [row for row in vars(Metrics).values() if isinstance(row, Declared)]
