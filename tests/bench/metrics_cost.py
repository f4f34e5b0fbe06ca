"""What metrics cost: daemons that count, tell and are scraped each second, against ones that do none of it.

    python -m tests.bench.metrics_cost [--rounds 4] [--count 200000] [--seconds-per-batch 0.1] [--long]

The model is replaced by one that computes nothing and takes `--seconds-per-batch` for 16,384 tokens, as a GPU
does; with 0, the pipeline alone is what is measured. Texts of 20 tokens keep the pipeline busier than such a
model; with `--long` the model is the limit, as it is for real passages. Both kinds take turns in one run. The
wall's seconds are the throughput; CPU seconds say what it took. A daemon samples the topic once, when the job
begins: the fewer the passages, the larger that looks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import urllib.request
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedstream.logs import configure
from tests.bench.no_model import Shape
from tests.bench.overhead import LONG, PARTITIONS, SHORT, flags, run
from tests.brokers import ApacheCluster, find_kafka, free_ports
from tests.kafka import make_topics

__all__ = ["compare"]

SCRAPE_SECONDS = 1.0


def compare(bootstrap: str, shape: Shape, count: int, rounds: int, per_batch: float) -> dict[str, Any]:
    """Runs both in turn.

    Returns:
        CPU and wall seconds of each run, and the ratio of the medians, counting over silent.
    """
    topics = make_topics(bootstrap, PARTITIONS, "cost")
    run("feed", bootstrap=bootstrap, topic=topics.documents, shape=asdict(shape), count=count)
    found: dict[str, list[dict[str, Any]]] = {"counting": [], "silent": []}
    for number in range(rounds):
        for kind in ("counting", "silent") if number % 2 == 0 else ("silent", "counting"):
            outputs = make_topics(bootstrap, PARTITIONS, "cost")
            given = flags(topics, outputs)
            if kind == "silent":
                found[kind].append(run("silent_daemon", flags=given, count=count, seconds=per_batch))
                continue
            (port,) = free_ports(1)
            ended = threading.Event()
            scraper = threading.Thread(target=_scrape, args=(port, ended))
            scraper.start()
            found[kind].append(run("daemon", flags=given, count=count, port=port, seconds=per_batch))
            ended.set()
            scraper.join()
    told: dict[str, Any] = {
        "texts": shape.name,
        "passages": count,
        "rounds": rounds,
        "seconds_per_batch": per_batch,
    }
    for what in ("cpu", "wall"):
        seconds = {kind: [round(each[what], 3) for each in runs] for kind, runs in found.items()}
        told[f"{what}_seconds"] = seconds
        told[f"{what}_ratio"] = round(
            statistics.median(seconds["counting"]) / statistics.median(seconds["silent"]), 4
        )
        told["cpu_seconds_by_thread"] = {kind: _threads(runs) for kind, runs in found.items()}
    return told


def _threads(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median CPU seconds of each thread that took any, the largest first."""
    names = {name for each in runs for name in each["threads"]}
    medians = {name: statistics.median(each["threads"].get(name, 0.0) for each in runs) for name in names}
    return {
        name: round(each, 2) for name, each in sorted(medians.items(), key=lambda e: -e[1]) if each > 0.005
    }


def _scrape(port: int, ended: threading.Event) -> None:
    while not ended.wait(SCRAPE_SECONDS):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            answer.read()


def main() -> None:
    """Prints the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seconds-per-batch", type=float, default=0.1)
    parser.add_argument("--long", action="store_true", help="texts of about 330 tokens, not of 20")
    given = parser.parse_args()
    configure(level="ERROR")
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        shape = LONG if given.long else SHORT
        found = compare(cluster.bootstrap, shape, given.count, given.rounds, given.seconds_per_batch)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
