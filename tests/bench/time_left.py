"""How true the time left is: a corpus sorted by size through real daemons, and what one of them told.

    python -m tests.bench.time_left [--seconds 240] [--falling]

Sizes are spread evenly by their logarithm, the largest a hundred times the smallest, and come in rising (or
falling) order. Two daemons with an encoder that takes the same time for each batch; Apache Kafka. The looks
are what a daemon's /metrics told, as Prometheus sees it; the truth is when the last offset was committed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedstream.logs import configure
from embedstream.offsets import GroupOffsets
from embedstream.scrape import scrape
from tests.brokers import ApacheCluster, find_kafka, free_ports
from tests.consuming import send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics, wait_until
from tests.simulated_job import sizes_sorted
from tests.unit.consumer.items import a_value

__all__ = ["Told", "judge", "watch"]

PARTITIONS = 4
RATIO = 100
SMALLEST = 150
TOKEN_BUDGET = 1024
BATCH_SECONDS = 0.1
# Of the text that is made here, about.
BYTES_PER_TOKEN = 1.9
LOOK_SECONDS = 2.0
# From here on the estimate is held to the truth.
FROM_RATIO = 0.2
WITHIN = 0.15
# A job's end is seen at a look; closer than that nobody needs to know.
GRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Told:
    """What was told at one look, and how long it took indeed; seconds."""

    ratio: float
    low: float
    likely: float
    high: float
    truth: float

    @property
    def is_close(self) -> bool:
        """Whether the estimate is within 15 % of the truth."""
        return abs(self.likely - self.truth) <= max(GRAIN_SECONDS, WITHIN * self.truth)

    @property
    def holds(self) -> bool:
        """Whether the truth lies within the range."""
        return self.low <= self.truth <= self.high


def watch(bootstrap: str, folder: Path, seconds: float, *, falling: bool, seed: int) -> list[Told]:
    """Run a job of about so many seconds, and take down what is told from a fifth on."""
    topics = make_topics(bootstrap, PARTITIONS)
    _fill(topics, seconds, falling=falling, seed=seed)
    (port,) = free_ports(1)
    looks: list[tuple[float, float, dict[str, float]]] = []
    with Daemons(folder) as daemons, GroupOffsets(topics.kafka, topics.documents) as offsets:
        for name, flags in (("one", ("--metrics-port", str(port))), ("two", ())):
            daemons.start(
                topics,
                *("--instance-id", name, *flags),
                env={"EMBEDSTREAM_METRICS__PROGRESS_SECONDS": "1"},
                seconds=BATCH_SECONDS,
                token_budget=TOKEN_BUDGET,
            )
        url = f"http://127.0.0.1:{port}/metrics"

        def ends_of_all() -> dict[str, float] | None:
            told = scrape(url, None).by("embedstream_job_start_end_offset", "partition")
            return told if len(told) == PARTITIONS else None

        ends = wait_until(ends_of_all, 60, "not all partitions were told")
        next_look = time.monotonic()
        deadline = next_look + 60 + 4 * seconds
        while True:
            assert time.monotonic() < deadline, f"the job of about {seconds} s does not end"
            found = offsets.read(topics.documents, range(PARTITIONS))
            now = time.monotonic()
            if all(p in found and found[p].offset >= ends[str(p)] for p in range(PARTITIONS)):
                break
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                told = scrape(url, None)
                bounds = told.by("embedstream_job_time_left_seconds", "bound")
                ratio = told.value("embedstream_job_progress_ratio")
                if ratio is not None and math.isfinite(bounds.get("likely", math.nan)):
                    looks.append((now, ratio, bounds))
            time.sleep(0.2)
    return [
        Told(ratio, bounds["low"], bounds["likely"], bounds["high"], now - at)
        for at, ratio, bounds in looks
        if FROM_RATIO <= ratio < 1
    ]


def judge(looks: Sequence[Told]) -> dict[str, Any]:
    """How many looks there were, and which shares of them were right."""
    # Where the grain of a look counts for less than what is allowed.
    far = [each for each in looks if each.truth > GRAIN_SECONDS / WITHIN] or looks
    errors = [abs(each.likely - each.truth) / each.truth for each in far]
    return {
        "looks": len(looks),
        "within_15_percent": sum(each.is_close for each in looks) / len(looks),
        "range_holds_truth": sum(each.holds for each in looks) / len(looks),
        "largest_error": round(max(errors), 3),
        "median_error": round(sorted(errors)[len(errors) // 2], 3),
        "median_width_of_range": round(
            sorted((each.high - each.low) / each.likely for each in looks if each.likely)[len(looks) // 2], 3
        ),
    }


def _fill(topics: Topics, seconds: float, *, falling: bool, seed: int) -> None:
    whole = 2 * seconds * TOKEN_BUDGET / BATCH_SECONDS * BYTES_PER_TOKEN
    mean = SMALLEST * (RATIO - 1) / math.log(RATIO)
    rng, count = random.Random(seed), int(whole / mean)
    sizes = sizes_sorted(rng, count, RATIO, descending=falling, smallest=SMALLEST)
    send(topics, [a_value(_text(n, size), n) for n, size in enumerate(sizes)], PARTITIONS)


def _text(document: int, size: int) -> str:
    """So many bytes, of which no passage is like another: those that are would not be encoded."""
    return " ".join(f"word{document} n{number}." for number in range(size // 8))[:size]


def main() -> None:
    """Prints the judgement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="about, of the job")
    parser.add_argument("--falling", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    configure(level="ERROR")
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        with redirect_stdout(sys.stderr):  # the daemons' logs
            looks = watch(
                cluster.bootstrap, Path(folder), given.seconds, falling=given.falling, seed=given.seed
            )
        print(json.dumps(judge(looks), indent=2))


if __name__ == "__main__":
    main()
