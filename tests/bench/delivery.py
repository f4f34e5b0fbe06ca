"""What exactly once costs: daemons that deliver in transactions against daemons that don't, in turn.

    python -m tests.bench.delivery [--seconds-per-batch 0.1] [--rounds 3] [--against FOLDER]

All of the daemon is real but the model, which is a hash of the passage; `--seconds-per-batch` lets each batch
of up to 16,384 tokens take so long, as on a GPU. `--against` names another checkout of this repository whose
daemons take turns with these (`git archive COMMIT | tar x -C FOLDER` makes one). Rates are records a second
from the model's load to the last delivery.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import uuid
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from embedstream.kafka import make_producer
from embedstream.logs import configure
from embedstream.topics import create_topics
from schemas.records import Document, Segment
from schemas.wire import encode_document
from tests.brokers import REPOSITORY, ApacheCluster, find_kafka
from tests.cli import clean_environment
from tests.kafka import Topics, make_topics

__all__ = ["compare"]

DELIVERIES = ("exactly-once", "at-least-once")
PARTITIONS = 4
WORDS = 150
TOKEN_BUDGET = 16_384


def send(topics: Topics, records: int) -> None:
    """Documents of about five passages each."""
    rng = random.Random(1)
    words = [line.strip() for line in (REPOSITORY / "README.md").read_text().split() if line.isalpha()]
    producer = make_producer(topics.kafka)
    for number in range(records):
        content = " ".join([str(number), *rng.choices(words, k=WORDS)])
        digest = hashlib.sha256(content.encode()).hexdigest()
        document = Document(
            id=f"document-{number}",
            version=1,
            content=content,
            content_hash=digest,
            source="bench",
            segment=Segment(index=0, count=1, start_char=0),
            metadata={},
        )
        producer.produce(topics.documents, encode_document(document), document.id)
        producer.poll(0)
    assert producer.flush(60) == 0


def rate(tree: Path, topics: Topics, delivery: str, seconds_per_batch: float) -> float:
    """Lets a daemon of that checkout drain the documents into topics of its own; returns records a second."""
    name = uuid.uuid4().hex[:8]
    topics = replace(topics, embeddings=f"bench-{name}-embeddings", dead_letters=f"bench-{name}-dead-letters")
    create_topics(topics.kafka, PARTITIONS)
    encoder = {"seconds": seconds_per_batch, "token_budget": TOKEN_BUDGET}
    environment = clean_environment({"HASH_ENCODER": json.dumps(encoder), "PYTHONPATH": str(tree)})
    command = [sys.executable, "-m", "tests.hash_encoder", *topics.flags, "--group", name, "--until-drained"]
    done = subprocess.run(
        [*command, "--delivery", delivery, "--metrics-port", "-1"],
        env=environment,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (began,) = (each for each in events if each["event"] == "model_loaded")
    delivered = [each for each in events if each["event"] == "window_delivered"]
    ended = datetime.fromisoformat(delivered[-1]["timestamp"])
    seconds = (ended - datetime.fromisoformat(began["timestamp"])).total_seconds()
    return float(sum(each["records"] for each in delivered) / seconds)


def compare(
    bootstrap: str, trees: dict[str, Path], records: int, rounds: int, seconds_per_batch: float
) -> dict[str, Any]:
    """Every checkout with each guarantee, in turn, `rounds` times."""
    topics = make_topics(bootstrap, PARTITIONS, "bench")
    send(topics, records)
    ways = [(tree, delivery) for tree in trees for delivery in DELIVERIES]
    rates: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for tree, delivery in ways if number % 2 == 0 else reversed(ways):
            rates[tree, delivery].append(rate(trees[tree], topics, delivery, seconds_per_batch))
    median = {way: statistics.median(each) for way, each in rates.items()}
    first = next(iter(trees))
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "records": records,
        "seconds_per_batch": seconds_per_batch,
        "records_per_second": {f"{t}, {d}": [round(r) for r in each] for (t, d), each in rates.items()},
        "exactly_to_at_least_once": round(median[first, DELIVERIES[0]] / median[first, DELIVERIES[1]], 3),
        "to_the_other": {
            delivery: round(median[first, delivery] / median[tree, delivery], 3)
            for tree in list(trees)[1:]
            for delivery in DELIVERIES
        },
    }


def main() -> None:
    """Prints the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds-per-batch", type=float, default=0.0)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    configure(level="ERROR")
    trees = {"this": REPOSITORY} | ({"other": given.against.resolve()} if given.against else {})
    with (
        tempfile.TemporaryDirectory() as folder,
        ApacheCluster(find_kafka(), Path(folder)) as cluster,
    ):
        result = compare(cluster.bootstrap, trees, given.records, given.rounds, given.seconds_per_batch)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
