"""What metrics cost: daemons that count, tell and are scraped, against ones that do none of it.

    python -m tests.bench.metrics_cost [--rounds 4] [--count 500000] [--seconds-per-batch 0.1] [--long]
        [--scrape-seconds 15] [--whole]

The model is replaced by one that computes nothing and takes `--seconds-per-batch` for 16,384 tokens, as a GPU
does; with 0, the pipeline alone is what is measured. Texts of 20 tokens keep the pipeline busier than such a
model; with `--long` the model is the limit, as it is for real passages. Both kinds take turns in one run. The
throughput is that of the last three quarters: a daemon samples the topic once, when a job begins, and jobs
take hours. With `--whole` that counts too: the fewer the passages, the more.
"""

from __future__ import annotations

import argparse
import json
import math
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

# As in deploy/prometheus/prometheus.yml.
SCRAPE_SECONDS = 15.0
# Where what is measured begins.
STEADY_SHARE = 0.25


def compare(
    bootstrap: str,
    shape: Shape,
    count: int,
    rounds: int,
    per_batch: float,
    *,
    after: int,
    scrape_seconds: float = SCRAPE_SECONDS,
) -> dict[str, Any]:
    """Runs both in turn.

    Args:
        bootstrap: a broker.
        shape: the texts.
        count: how many of them.
        rounds: of both kinds.
        per_batch: seconds that the model takes for a batch.
        after: how many passages are encoded when what is measured begins.
        scrape_seconds: between two scrapes.

    Returns:
        Microseconds a passage, of the CPU and by the wall, of each run; the ratio of the medians, counting
        over silent, and the mean ratio of the rounds with its standard error.
    """
    topics = make_topics(bootstrap, PARTITIONS, "cost")
    run("feed", bootstrap=bootstrap, topic=topics.documents, shape=asdict(shape), count=count)
    found: dict[str, list[dict[str, Any]]] = {"counting": [], "silent": []}
    for number in range(rounds):
        for kind in ("counting", "silent") if number % 2 == 0 else ("silent", "counting"):
            outputs = make_topics(bootstrap, PARTITIONS, "cost")
            given = flags(topics, outputs)
            if kind == "silent":
                found[kind].append(run("silent_daemon", flags=given, seconds=per_batch, after=after))
                continue
            (port,) = free_ports(1)
            ended = threading.Event()
            scraper = threading.Thread(target=_scrape, args=(port, scrape_seconds, ended))
            scraper.start()
            asked = {"flags": given, "count": count, "port": port, "seconds": per_batch, "after": after}
            found[kind].append(run("daemon", **asked))
            ended.set()
            scraper.join()
    told: dict[str, Any] = {
        "texts": shape.name,
        "passages": count,
        "measured_after": after,
        "rounds": rounds,
        "seconds_per_batch": per_batch,
        "scrape_seconds": scrape_seconds,
        "cpu_seconds_by_thread": {kind: _threads(runs) for kind, runs in found.items()},
    }
    for what in ("cpu", "wall"):
        each = {kind: [run[what] / run["passages"] * 1e6 for run in runs] for kind, runs in found.items()}
        pairs = [a / b for a, b in zip(each["counting"], each["silent"], strict=True)]
        told[f"{what}_us_per_passage"] = {kind: [round(one, 2) for one in us] for kind, us in each.items()}
        told[f"{what}_ratio"] = round(
            statistics.median(each["counting"]) / statistics.median(each["silent"]), 4
        )
        told[f"{what}_ratio_of_rounds"] = round(statistics.fmean(pairs), 4)
        if rounds > 1:
            told[f"{what}_standard_error"] = round(statistics.stdev(pairs) / math.sqrt(rounds), 4)
    return told


def _threads(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median CPU seconds of each thread that took any, the largest first."""
    names = {name for each in runs for name in each["threads"]}
    medians = {name: statistics.median(each["threads"].get(name, 0.0) for each in runs) for name in names}
    return {
        name: round(each, 2) for name, each in sorted(medians.items(), key=lambda e: -e[1]) if each > 0.005
    }


def _scrape(port: int, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            answer.read()


def main() -> None:
    """Prints the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--seconds-per-batch", type=float, default=0.1)
    parser.add_argument("--long", action="store_true", help="texts of about 330 tokens, not of 20")
    parser.add_argument("--scrape-seconds", type=float, default=SCRAPE_SECONDS)
    parser.add_argument(
        "--whole", action="store_true", help="from the model's load on, the first look included"
    )
    given = parser.parse_args()
    configure(level="ERROR")
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        shape = LONG if given.long else SHORT
        found = compare(
            cluster.bootstrap,
            shape,
            given.count,
            given.rounds,
            given.seconds_per_batch,
            after=0 if given.whole else int(given.count * STEADY_SHARE),
            scrape_seconds=given.scrape_seconds,
        )
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
