"""The Fleet dashboard: each daemon's stages, batches, GPU, partitions and transactions."""

from __future__ import annotations

from typing import Any

from deploy.grafana.panels import Panel, Query, Row, dashboard, variable

__all__ = ["fleet"]

ONE = '{job=~"$job", instance=~"$instance"}'


def _each(
    title: str, description: str, unit: str, expr: str, legend: str = "{{instance}}", **more: Any
) -> Panel:
    return Panel(title, description, unit, (Query(expr, legend),), **more)


def _stages() -> tuple[Panel, ...]:
    """Where a daemon spends its time."""
    rate = f"rate(embedstream_stage_duration_seconds_sum{ONE}[$__rate_interval])"
    buckets = f"rate(embedstream_stage_duration_seconds_bucket{ONE}[$__rate_interval])"
    return (
        _each(
            "Time in stages",
            "Seconds of work a second, by stage: the one near 1 is the bottleneck. It should be encode.",
            "percentunit",
            f"sum by (job, instance, stage) ({rate})",
            "{{instance}} {{stage}}",
        ),
        _each(
            "Duration of stages, 95th percentile",
            "Of a window for encode and deliver, of a batch of records for decode and split.",
            "s",
            f"histogram_quantile(0.95, sum by (job, instance, stage, le) ({buckets}))",
            "{{instance}} {{stage}}",
        ),
        _each(
            "Records through stages",
            "Records a second by stage and what became of them.",
            "short",
            f"sum by (job, instance, stage, result) (rate(embedstream_records_total{ONE}[$__rate_interval]))",
            "{{instance}} {{stage}} {{result}}",
        ),
        _each(
            "Passages a second",
            "Embeddings committed by each daemon.",
            "short",
            f"rate(embedstream_passages_total{ONE}[$__rate_interval])",
            width=6,
        ),
        _each(
            "Tokens a second",
            "Tokens encoded by each daemon, padding not counted.",
            "short",
            f"rate(embedstream_tokens_total{ONE}[$__rate_interval])",
            width=6,
        ),
        _each(
            "Input queue",
            "Bytes of records that were read and wait for decode; near 0, Kafka or the network is too slow.",
            "bytes",
            f'embedstream_queue_depth{ONE[:-1]}, stage="decode"}}',
            width=6,
        ),
        _each(
            "Windows that wait",
            "For encode and deliver, at most one each: 1 before deliver means that delivery is too slow.",
            "none",
            f'embedstream_queue_depth{ONE[:-1]}, stage=~"encode|deliver"}}',
            "{{instance}} {{stage}}",
            width=6,
        ),
    )


def _batches() -> tuple[Panel, ...]:
    """What the encoder is given."""
    return (
        _each(
            "Tokens of a batch",
            "Mean of the batches that were encoded, padding included.",
            "short",
            f"rate(embedstream_batch_tokens_sum{ONE}[$__rate_interval])"
            f" / rate(embedstream_batch_tokens_count{ONE}[$__rate_interval])",
        ),
        _each(
            "Passages of a batch",
            "Mean of the batches that were encoded.",
            "short",
            f"rate(embedstream_batch_passages_sum{ONE}[$__rate_interval])"
            f" / rate(embedstream_batch_passages_count{ONE}[$__rate_interval])",
        ),
        _each(
            "Padding",
            "Share of the last window's computed tokens that is padding; 0 where the model runs without.",
            "percentunit",
            f"embedstream_padding_ratio{ONE}",
        ),
        _each(
            "Batches halved",
            "Because the device ran out of memory.",
            "short",
            f"increase(embedstream_oom_splits_total{ONE}[$__rate_interval])",
        ),
        _each(
            "Passages not computed",
            "A second: equal to another of the same window, whose vector they got.",
            "short",
            f"rate(embedstream_duplicate_passages_total{ONE}[$__rate_interval])",
            "{{instance}} equal",
        ),
        _each(
            "Cache",
            "Passages looked up a second, by result.",
            "short",
            f"sum by (job, instance, result) (rate(embedstream_cache_requests_total{ONE}[$__rate_interval]))",
            "{{instance}} {{result}}",
        ),
    )


def _gpu() -> tuple[Panel, ...]:
    """The card; empty without one."""
    return (
        Panel(
            "GPU memory",
            "In use by anyone, reserved by the daemon, and all there is.",
            "bytes",
            (
                Query(f"embedstream_gpu_memory_used_bytes{ONE}", "{{instance}} used"),
                Query(f"embedstream_gpu_memory_reserved_bytes{ONE}", "{{instance}} reserved"),
                Query(f"embedstream_gpu_memory_total_bytes{ONE}", "{{instance}} total"),
            ),
        ),
        _each(
            "GPU use",
            "Share of the time in which the GPU computed at all.",
            "percentunit",
            f"embedstream_gpu_utilization_ratio{ONE}",
            most=1,
        ),
        _each(
            "Share of the GPU's peak",
            "The model's own operations over the card's dense FP16 peak, while it encodes.",
            "percentunit",
            f"embedstream_model_flops_utilization_ratio{ONE}",
            most=1,
        ),
    )


def _kafka() -> tuple[Panel, ...]:
    """Partitions, transactions, ages."""
    return (
        _each(
            "Lag by partition",
            "Records that the group has not committed; all daemons tell all partitions, the highest counts.",
            "short",
            f"max by (job, group, topic, partition) (embedstream_consumer_lag_records{ONE})",
            "{{topic}} {{partition}}",
        ),
        _each(
            "Rebalances",
            "Changes of the assignment by kind; lost means that the group gave the daemon up.",
            "short",
            f"sum by (job, instance, kind) (increase(embedstream_rebalances_total{ONE}[$__rate_interval]))",
            "{{instance}} {{kind}}",
        ),
        _each(
            "Transactions",
            "A second, by result; an aborted one is delivered again.",
            "short",
            f"sum by (job, instance, result) (rate(embedstream_transactions_total{ONE}[$__rate_interval]))",
            "{{instance}} {{result}}",
        ),
        _each(
            "Age of records",
            "Of the newest record of the last window when it was committed: how far behind the producer.",
            "s",
            f"embedstream_record_age_seconds{ONE}",
        ),
        _each(
            "Since the last commit",
            "Of each daemon; grows while it is idle.",
            "s",
            f"time() - (embedstream_last_commit_timestamp_seconds{ONE} > 0)",
        ),
        _each(
            "Clocks of health",
            "Time since polling, work and membership moved: past its bound, /healthz fails.",
            "s",
            f"embedstream_clock_age_seconds{ONE}",
            "{{instance}} {{clock}}",
        ),
    )


def _process() -> tuple[Panel, ...]:
    """The process itself."""
    return (
        _each(
            "Memory of the process",
            "Resident memory: what the system counts.",
            "bytes",
            f"process_resident_memory_bytes{ONE}",
        ),
        _each(
            "CPU of the process",
            "Cores that are in use.",
            "short",
            f"rate(process_cpu_seconds_total{ONE}[$__rate_interval])",
        ),
        _each(
            "What monitoring missed",
            "Looks at Kafka without an answer, and requests for /metrics that were turned away, a second.",
            "short",
            f"rate(embedstream_progress_errors_total{ONE}[$__rate_interval])"
            f" + on (job, instance) sum by (job, instance)"
            f" (rate(embedstream_metrics_refused_total{ONE}[$__rate_interval]))",
        ),
    )


def _rented() -> tuple[Panel, ...]:
    """What `embedstream fleet sd` tells of rented pods; empty without it."""
    return (
        _each(
            "Rented: dollars so far",
            "Of all pods of a fleet, those that are gone included, by the prices and bills of RunPod's API.",
            "currencyUSD",
            "sum by (fleet) (embedstream_fleet_cost_dollars)",
            "{{fleet}}",
        ),
        _each(
            "Rented: dollars an hour",
            "What the pods that are there now cost, as RunPod's API tells.",
            "currencyUSD",
            "sum by (fleet) (embedstream_fleet_price_dollars_per_hour)",
            "{{fleet}}",
        ),
        _each(
            "Rented: pods",
            "By the status that RunPod's API gives them.",
            "short",
            "sum by (fleet, status) (embedstream_fleet_pods)",
            "{{fleet}} {{status}}",
        ),
    )


def fleet() -> dict[str, Any]:
    """The dashboard's JSON."""
    return dashboard(
        "embedstream-fleet",
        "embedstream: fleet",
        "What each daemon does, and where it loses time.",
        (
            Row("Stages", _stages()),
            Row("Batches", _batches()),
            Row("GPU", _gpu()),
            Row("Kafka", _kafka()),
            Row("Process", _process()),
            Row("Rented pods", _rented()),
        ),
        (
            variable("job", "Job", "label_values(embedstream_consumer_info, job)"),
            variable("group", "Group", 'label_values(embedstream_consumer_info{job=~"$job"}, group)'),
            variable(
                "topic",
                "Topic",
                'label_values(embedstream_consumer_info{job=~"$job", group=~"$group"}, topic)',
            ),
            variable(
                "instance",
                "Instance",
                "label_values(embedstream_consumer_info"
                '{job=~"$job", group=~"$group", topic=~"$topic"}, instance)',
            ),
        ),
        (
            ("rebalance", f"sum by (instance) (changes(embedstream_rebalances_total{ONE}[1m])) > 0", "blue"),
            ("daemon gone", f"up{ONE} == 0", "red"),
        ),
    )
