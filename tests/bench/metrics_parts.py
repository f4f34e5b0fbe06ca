"""What each part of the metrics takes by itself, in CPU time, and what they make up of a core together.

    python -m tests.bench.metrics_parts

A scrape, a record, a window; and with a broker, in CPU time of the whole process with its clients' threads:
a look at the group's progress, a look at its money, and a second of clients that only stay connected. What a
whole daemon loses drowns in the noise of a machine that does other work; this is what it adds up from.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import generate_latest

from consumer.records import Refused
from consumer.reporting import LOOK_SECONDS, MONEY_SECONDS, Reporting
from embedstream.group_progress import GroupProgress
from embedstream.logs import configure
from embedstream.metrics import Metrics
from embedstream.settings import load
from embedstream.spending import Spending
from tests.brokers import ApacheCluster, find_kafka
from tests.kafka import make_topics
from tests.unit.consumer.items import a_document

__all__ = ["looks", "parts", "share_of_a_core"]

RECORDS = 1024
PARTITIONS = 16
BATCHES = 8
REPEATS = 7
# As in deploy/prometheus/prometheus.yml; the rest are defaults of the settings.
SCRAPE_SECONDS = 15.0
# What a daemon on a fast GPU reads.
RECORDS_PER_SECOND = 1000.0


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


def looks(bootstrap: str) -> dict[str, float]:
    """CPU seconds of the process, all threads: of a look at progress, at money, of a second without."""
    topics = make_topics(bootstrap, PARTITIONS)
    with (
        GroupProgress(topics.kafka, topics.documents, is_daemon=True) as progress,
        closing(Spending(topics.kafka, topics.documents, "one", 1.0)) as spending,
    ):
        progress.look()
        spending.look()
        began = time.process_time()
        time.sleep(10)
        idle = (time.process_time() - began) / 10
        found = {"connected_second": idle}
        reporting = Reporting(load(), Metrics(), threading.Event(), lambda _: None)
        for name, call, times in (
            ("progress_look", progress.look, 100),
            ("money_look", spending.look, 20),
            ("money_second", lambda: reporting._count(spending), 1000),
        ):
            began, began_wall = time.process_time(), time.monotonic()
            for _ in range(times):
                call()
            used = time.process_time() - began - idle * (time.monotonic() - began_wall)
            found[name] = used / times
        return found


def share_of_a_core(found: dict[str, float]) -> float:
    """What all of it takes of a core, with what is set by default, at RECORDS_PER_SECOND."""
    settings = load()
    return (
        found["scrape"] / SCRAPE_SECONDS
        + found["record"] * RECORDS_PER_SECOND
        + found["window"] / settings.consumer.window_seconds
        + found["progress_look"] / settings.metrics.progress_seconds
        + found["money_look"] / LOOK_SECONDS
        + found["money_second"] / MONEY_SECONDS
        + found["connected_second"]
    )


def _seconds(call: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(REPEATS):
        began = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - began) / times)
    return min(found)


def main() -> None:
    """Prints the parts and their sum as JSON."""
    configure(level="ERROR")
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        found = parts() | looks(cluster.bootstrap)
    told = {name: f"{seconds * 1e6:.2f} us" for name, seconds in found.items()}
    print(json.dumps(told | {"of_a_core": f"{share_of_a_core(found):.3%}"}, indent=2))


if __name__ == "__main__":
    main()
