"""What each part of the metrics takes by itself, in CPU time of its thread: a scrape, a record, a window.

    python -m tests.bench.metrics_parts

What a whole daemon loses drowns in the noise of a machine that does other work; this is what it adds up from.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable

from prometheus_client import generate_latest

from consumer.records import Refused
from embedstream.metrics import Metrics
from tests.unit.consumer.items import a_document

__all__ = ["parts"]

RECORDS = 1024
PARTITIONS = 16
BATCHES = 8
REPEATS = 7


def parts() -> dict[str, float]:
    """CPU seconds: of a scrape, of counting a record through decode and split, of a window of 8 batches."""
    metrics = Metrics()
    for partition in range(PARTITIONS):
        for gauge in (metrics.consumer_lag_records, metrics.job_start_end_offset):
            gauge.labels(group="group", topic="topic", partition=partition).set(1)
    items = [a_document(0, number) for number in range(RECORDS)]

    def records() -> None:
        for stage in ("decode", "split"):
            kinds = Counter(map(type, items))
            metrics.records_total.labels(stage=stage, result="ok").inc(RECORDS - kinds[Refused])

    def window() -> None:
        for _ in range(BATCHES):
            metrics.batch_tokens.observe(16_000)
            metrics.batch_passages.observe(80)
        for stage in ("encode", "deliver"):
            metrics.stage_duration_seconds.labels(stage=stage).observe(1)
            metrics.records_total.labels(stage=stage, result="ok").inc(5)
        for counter in (metrics.tokens_total, metrics.passages_total, metrics.input_bytes_total):
            counter.inc(5)
        metrics.transactions_total.labels(result="committed").inc()
        metrics.last_commit_timestamp_seconds.set(1)
        metrics.record_age_seconds.set(1)

    return {
        "scrape": _seconds(lambda: generate_latest(metrics.registry), 20),
        "record": _seconds(records, 50) / RECORDS,
        "window": _seconds(window, 200),
    }


def _seconds(call: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(REPEATS):
        began = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - began) / times)
    return min(found)


if __name__ == "__main__":
    print(json.dumps({name: f"{seconds * 1e6:.2f} us" for name, seconds in parts().items()}, indent=2))
