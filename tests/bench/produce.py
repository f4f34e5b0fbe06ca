"""The producer into Apache Kafka on the same machine: JSON Lines and small JSON files, then all of it again.

Beside it, in turn, a plain loop as most scripts have it: parse, produce, and keep no account of anything.

    python -m tests.bench.produce [--megabytes 1000] [--files 50000] [--file-chars 500 4000] [--rounds 3]

The corpus is cut from real texts and just written, so that it lies in the page cache. CPU times are of all
the processes: on a machine that does other things as well they say more than the clock does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from confluent_kafka import Producer

from embedstream.logs import configure
from embedstream.settings import load
from producer.produce import produce
from tests.brokers import ApacheCluster, find_kafka
from tests.kafka import make_topics

__all__ = ["compare", "make_files", "make_lines"]

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
PARTITIONS = 8


def make_lines(path: Path, size: int, lengths: Sequence[int], chance: random.Random) -> int:
    """Write documents as JSON Lines of `size` bytes; return how many.

    Args:
        path: Of the file.
        size: In bytes.
        lengths: Of the documents in characters, drawn from at random.
        chance: Decides about them.
    """
    text, written, count = _text(), 0, 0
    with path.open("w") as file:
        while written < size:
            line = json.dumps(_document(text, count, chance.choice(lengths), chance), ensure_ascii=False)
            written += len(line.encode()) + 1
            file.write(line + "\n")
            count += 1
    return count


def make_files(folder: Path, count: int, chance: random.Random, least: int = 500, most: int = 4000) -> None:
    """Write documents of `least` to `most` characters, log-uniform, a file each, a thousand a folder."""
    text = _text()
    for number in range(count):
        shard = folder / f"shard_{number // 1000:04}"
        if number % 1000 == 0:
            shard.mkdir(parents=True)
        document = _document(text, number, _log_uniform(least, most, chance), chance)
        (shard / f"document-{number:07}.json").write_text(json.dumps(document, ensure_ascii=False))


def compare(
    bootstrap: str, broker: psutil.Process, path: Path, state: Path, readers: int | None = None
) -> dict[str, Any]:
    """Send a corpus into a topic of its own, and then again with the ledger of the first run.

    Returns:
        Rates by the clock, CPU seconds of producer and broker, and the most memory that the producer's
        processes took together (resident set sizes: what they share counts for each).
    """
    topics = make_topics(bootstrap, PARTITIONS, "bench")
    settings = load(
        flags={
            "kafka.bootstrap_servers": bootstrap,
            "kafka.documents_topic": topics.documents,
            "producer.ledger": str(state / topics.documents),
            "producer.readers": readers,
        }
    )
    before, broker_before = _cpu(), sum(broker.cpu_times()[:2])
    with _peak_memory(broker) as peak:
        first = produce([path], settings, progress=False)
    cpu = _cpu() - before
    again = produce([path], settings, progress=False)
    assert first.failure is None
    assert (again.documents, again.bytes_read) == (0, 0)
    return {
        "documents": first.documents,
        "seconds": round(first.seconds, 2),
        "megabytes_per_second": round(first.bytes_read / 1e6 / first.seconds, 1),
        "documents_per_second": round(first.documents / first.seconds),
        "cpu_seconds": {
            "producer": round(cpu, 2),
            "broker": round(sum(broker.cpu_times()[:2]) - broker_before, 2),
        },
        "peak_megabytes": round(peak[0] / 1e6),
        "again_seconds": round(again.seconds, 3),
        "again_share": round(again.seconds / first.seconds, 3),
    }


def plain(bootstrap: str, path: Path) -> dict[str, Any]:
    """Send a corpus as a script of twenty lines does, compressed as ours is.

    Returns:
        Rates by the clock, and CPU seconds.
    """
    topics = make_topics(bootstrap, PARTITIONS, "plain")
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50,
            "compression.type": "zstd",
            "compression.level": 2,
        }
    )
    before, started = _cpu(), time.perf_counter()
    count = size = 0
    for data in _raw_documents(path):
        fields = json.loads(data)
        value = json.dumps(fields).encode()
        while True:
            try:
                producer.produce(topics.documents, value, str(count))
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
        size += len(data)
        if count % 100 == 0:
            producer.poll(0)
    producer.flush()
    seconds = time.perf_counter() - started
    return {
        "documents": count,
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(size / 1e6 / seconds, 1),
        "documents_per_second": round(count / seconds),
        "cpu_seconds": {"plain": round(_cpu() - before, 2)},
    }


def main() -> None:
    """Prints a line of JSON for each run, and at the end ours against the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--file-chars", type=int, nargs=2, default=(500, 4000), metavar=("LEAST", "MOST"))
    parser.add_argument("--readers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"--seed {given.seed}", file=sys.stderr)
    configure(level="WARNING")
    with TemporaryDirectory() as name, ApacheCluster(find_kafka(), Path(name) / "kafka") as cluster:
        folder = Path(name)
        broker = psutil.Process(cluster.nodes[0].pid)
        paths = []
        if given.megabytes:
            chance = random.Random(given.seed)
            of_kind = {
                # As long as those of a real archive: 0.8 to 541 KB, 38 KB on average.
                "archive": [len(content) for content in _contents()],
                "short": [_log_uniform(1000, 16_000, chance) for _ in range(10_000)],
            }
            for kind, lengths in of_kind.items():
                make_lines(folder / f"{kind}.jsonl", given.megabytes * 1_000_000, lengths, chance)
                paths.append(folder / f"{kind}.jsonl")
        if given.files:
            make_files(folder / "files", given.files, random.Random(given.seed), *given.file_chars)
            paths.append(folder / "files")
        rates: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(given.rounds):
            for path in paths:
                # In a process of its own: what it leaves in memory would count as ours.
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    found = pool.submit(plain, cluster.bootstrap, path).result()
                rates[path.name, "plain"].append(found["documents_per_second"])
                print(json.dumps({"corpus": path.name, "way": "plain", **found}), flush=True)
                found = compare(cluster.bootstrap, broker, path, folder, given.readers)
                rates[path.name, "ours"].append(found["documents_per_second"])
                print(json.dumps({"corpus": path.name, "way": "ours", **found}), flush=True)
        for path in paths:
            ours, theirs = (statistics.median(rates[path.name, way]) for way in ("ours", "plain"))
            print(json.dumps({"corpus": path.name, "ours_over_plain": round(ours / theirs, 3)}), flush=True)


def _raw_documents(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for each in path.rglob("*.json"):
            yield each.read_bytes()
    else:
        with path.open("rb") as file:
            yield from file


def _contents() -> list[str]:
    return [json.loads(path.read_text())["content"] for path in sorted(CORPUS.glob("*/*.json"))]


def _text() -> str:
    return "\n\n".join(_contents())


def _log_uniform(least: int, most: int, chance: random.Random) -> int:
    return int(least * (most / least) ** chance.random())


def _document(text: str, number: int, size: int, chance: random.Random) -> dict[str, str]:
    start = chance.randrange(len(text) - size)
    return {
        "content": f"{number}. {text[start : start + size]}",
        "title": f"Title {number}",
        "author": "A. N. Author",
        "date": "1917-11-07",
        "language": "en",
        "source_url": f"https://example.org/archive/{number}.htm",
    }


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _peak_memory(broker: psutil.Process) -> Iterator[list[int]]:
    """The most that this process and its children, less the broker, take together while the block runs."""
    peak, done = [0], threading.Event()
    me = psutil.Process()

    def look() -> None:
        while not done.wait(0.1):
            children = [each for each in me.children(recursive=True) if each.pid != broker.pid]
            peak[0] = max(peak[0], sum(_resident(each) for each in (me, *children)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
