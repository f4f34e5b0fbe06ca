"""What the daemon costs beside the two things that it can't do without: tokenising and producing.

    python -m tests.bench.overhead [BOOTSTRAP] [--rounds 3] [--short 100000] [--long 8000]

The model is replaced by one that does nothing, so all that is left is the pipeline. In one run, in turn,
on the same cores with the broker beside them: the tokenizer alone on the texts, a bare transactional producer
of the very records that come out, and the whole daemon, Kafka to Kafka. Each is a process of its own; what
counts are its CPU seconds. Medians of the rounds; the daemon's are also given by thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import uuid
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from embedstream.logs import configure
from tests.bench.no_model import Shape
from tests.brokers import a_broker
from tests.kafka import Topics, make_topics

__all__ = ["LONG", "SHORT", "compare"]

SHORT = Shape("short", 81)
LONG = Shape("long", 1490)
PARTITIONS = 4


def compare(bootstrap: str, shape: Shape, count: int, rounds: int) -> dict[str, Any]:
    """Runs the three in turn.

    Returns:
        The median result of each (by CPU seconds) with `passages_per_second` and `cpu_us_per_passage`, and
        `daemon_to_parts`: the daemon's CPU seconds over those of the other two added up.
    """
    topics = make_topics(bootstrap, PARTITIONS, "overhead")
    run("feed", bootstrap=bootstrap, topic=topics.documents, shape=asdict(shape), count=count)
    results: dict[str, list[dict[str, Any]]] = {"tokenizer": [], "producer": [], "daemon": []}
    for _ in range(rounds):
        outputs = make_topics(bootstrap, PARTITIONS, "overhead")
        results["daemon"].append(run("daemon", flags=flags(topics, outputs), count=count))
        windows = results["daemon"][-1]["windows"]
        results["tokenizer"].append(run("tokenizer", shape=asdict(shape), count=count))
        results["producer"].append(
            run(
                "producer",
                bootstrap=bootstrap,
                topic=make_topics(bootstrap, PARTITIONS, "overhead").embeddings,
                shape=asdict(shape),
                count=count,
                transaction=max(1, round(count / windows)),
            )
        )
    found: dict[str, Any] = {name: median(each) for name, each in results.items()}
    parts = found["tokenizer"]["cpu"] + found["producer"]["cpu"]
    return found | {"shape": shape.name, "daemon_to_parts": found["daemon"]["cpu"] / parts}


def run(job: str, **arguments: Any) -> dict[str, Any]:
    """One job of the worker."""
    asked = json.dumps({"job": job, **arguments})
    command = [sys.executable, "-m", "tests.bench.overhead_worker", asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) or {}
    return result


def flags(inputs: Topics, outputs: Topics) -> dict[str, Any]:
    """The daemon's settings."""
    return {
        "kafka.bootstrap_servers": inputs.bootstrap,
        "kafka.documents_topic": inputs.documents,
        "kafka.embeddings_topic": outputs.embeddings,
        "kafka.dead_letters_topic": outputs.dead_letters,
        "consumer.group": uuid.uuid4().hex,
        "consumer.until_drained": True,
    }


def median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result in the middle by CPU seconds, with its rates."""
    middle = sorted(results, key=lambda each: each["cpu"])[len(results) // 2]
    return middle | {
        "passages_per_second": middle["passages"] / statistics.median(each["wall"] for each in results),
        "cpu_us_per_passage": middle["cpu"] / middle["passages"] * 1e6,
        "cpu_all": [round(each["cpu"], 2) for each in results],
        "wall_all": [round(each["wall"], 2) for each in results],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The table for people."""
    tokens = found["tokenizer"]["tokens"] / found["tokenizer"]["passages"]
    table = Table(
        title=f"{found['daemon']['passages']:,.0f} texts of {tokens:.0f} tokens", title_justify="left"
    )
    for name in ("", "passages/s", "CPU s", "CPU us a passage", "of one core"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("tokenizer", "producer", "daemon"):
        each = found[name]
        table.add_row(
            name,
            f"{each['passages_per_second']:,.0f}",
            f"{each['cpu']:.2f}",
            f"{each['cpu_us_per_passage']:.1f}",
            f"{each['cpu'] / each['wall']:.0%}",
        )
    console.print(table)
    console.print(f"the daemon takes {found['daemon_to_parts']:.2f} times the CPU seconds of the other two")
    total = found["daemon"]["cpu"]
    threads = sorted(found["daemon"]["threads"].items(), key=lambda each: -each[1])
    parts = [f"{name} {used:.2f} s ({used / total:.0%})" for name, used in threads if used > total / 100]
    console.print("by thread: " + ", ".join(parts))


def main() -> None:
    """Prints both tables, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bootstrap", nargs="?", help="a broker; without it, Apache Kafka is started")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=100_000, help="texts of about 20 tokens; 0 for none")
    parser.add_argument("--long", type=int, default=8_000, help="texts of about 330 tokens; 0 for none")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure(level="WARNING")
    with a_broker(arguments.bootstrap) as bootstrap:
        found = [
            compare(bootstrap, shape, count, arguments.rounds)
            for shape, count in ((SHORT, arguments.short), (LONG, arguments.long))
            if count
        ]
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for each in found:
        show(each, Console(width=110))


if __name__ == "__main__":
    main()
