"""What a daemon holds in memory while it works off a backlog of small records on Apache Kafka.

    python -m tests.bench.backlog [--records 1000000] [--delivery exactly-once] [--bert]

The whole backlog is there before the daemon starts. The encoder is the hash of a passage, so that what is
measured is the pipeline and its clients, not a model; with `--bert` it is a BERT of two layers with random
weights, and the records are texts of some 20 tokens that never come twice. The figure is the resident memory
when nine tenths are done against that when one tenth is done; that of the daemon with its encoder loaded
stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from embedstream.broker import ends_with_parent
from embedstream.kafka import make_producer
from embedstream.offsets import committed_offsets
from tests.bench.memory import texts
from tests.brokers import ApacheCluster, find_kafka, free_ports
from tests.cli import clean_environment
from tests.kafka import Topics, make_topics
from tests.models import save_bert
from tests.unit.consumer.items import a_value

__all__ = ["Footprint", "measure"]

PARTITIONS = 4
SAMPLE_SECONDS = 0.25
MIB = 1024 * 1024


@dataclass(frozen=True)
class Footprint:
    """Resident memory in MiB, and how fast it went.

    Attributes:
        at_start: With the encoder loaded, before the first record.
        by_twentieths: After each twentieth of the records.
    """

    records: int
    seconds: float
    records_per_second: float
    at_start: float
    by_twentieths: tuple[float, ...]
    highest: float

    @property
    def growth(self) -> float:
        """From a tenth to nine tenths, as a share of the first."""
        return self.by_twentieths[17] / self.by_twentieths[1] - 1


def measure(
    bootstrap: str,
    records: int,
    delivery: str = "exactly-once",
    settings: Mapping[str, str] | None = None,
    *,
    bert: bool = False,
) -> Footprint:
    """Fills a topic, lets one daemon work it off, and watches its memory.

    Args:
        bootstrap: a broker.
        records: the backlog. As settings are, the queue holds some 100,000 of these, and windows grow to some
            25,000: a tenth and what is left after nine tenths must be more than that.
        delivery: the guarantee.
        settings: more variables of the daemon's environment.
        bert: whether a small BERT takes the hash's place.

    Raises:
        AssertionError: the daemon failed, or not everything was committed.
    """
    topics = make_topics(bootstrap, PARTITIONS, "memory")
    small = (f"Record {number} of a backlog of small ones. " * 4 for number in range(records))
    _fill(topics, texts(records) if bert else small)
    (port,) = free_ports(1)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        module = ["tests.hash_encoder"]
        if bert:
            module = ["embedstream", "consume", "--device", "cpu", "--model", str(save_bert(Path(folder)))]
        flags = ["--metrics-port", str(port), "--delivery", delivery]
        process = _start([*module, *topics.flags, "--group", topics.documents, *flags], log, settings or {})
        try:
            footprint = _watch(process, port, records)
        finally:
            process.kill()
            process.wait()
        assert process.returncode in (0, -signal.SIGKILL), log.read_text()[-2000:]
    found = committed_offsets(topics.kafka, topics.documents, topics.documents, range(PARTITIONS))
    assert sum(each.offset for each in found.values()) == records
    return footprint


def _fill(topics: Topics, contents: Iterable[str]) -> None:
    producer = make_producer(topics.kafka)
    for number, content in enumerate(contents):
        value = a_value(content, number)
        while True:
            try:
                producer.produce(topics.documents, value, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


def _start(module: Sequence[str], log: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment = clean_environment({"HASH_ENCODER": "{}"} | dict(settings))
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", *module]
    with log.open("wb") as output:
        return subprocess.Popen(
            ends_with_parent(command, signal.SIGKILL), env=environment, stdout=output, stderr=output
        )


def _watch(process: subprocess.Popen[bytes], port: int, records: int) -> Footprint:
    samples: list[tuple[float, int, float]] = []
    memory = psutil.Process(process.pid)
    while not samples or samples[-1][1] < records:
        assert process.poll() is None, "the daemon ended"
        done = _done(port)
        if done is not None:
            samples.append((time.monotonic(), done, memory.memory_info().rss / MIB))
        time.sleep(SAMPLE_SECONDS)

    def first(share: float) -> float:
        return next(rss for _, done, rss in samples if done >= share * records)

    began = next(at for at, done, _ in samples if done > 0)
    seconds = samples[-1][0] - began
    return Footprint(
        records,
        round(seconds, 1),
        round(records / max(seconds, 0.001)),
        round(samples[0][2], 1),
        tuple(round(first(step / 20), 1) for step in range(1, 21)),
        round(max(rss for _, _, rss in samples), 1),
    )


def _done(port: int) -> int | None:
    """Records delivered so far; None as long as the encoder is not loaded."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    if "embedstream_model_info{" not in text:
        return None
    lines = [line for line in text.splitlines() if line.startswith("embedstream_records_total{")]
    found = [line for line in lines if 'stage="deliver"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in found)


def main() -> None:
    """Prints the footprint as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--delivery", default="exactly-once", choices=["exactly-once", "at-least-once"])
    parser.add_argument("--bert", action="store_true", help="a small BERT, not the hash")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        footprint = measure(cluster.bootstrap, arguments.records, arguments.delivery, bert=arguments.bert)
    print(json.dumps(asdict(footprint) | {"growth": round(footprint.growth, 3)}, indent=2))


if __name__ == "__main__":
    main()
