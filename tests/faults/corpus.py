"""A corpus that is sent by a producer which is killed, and one that changes; judged by what a reader keeps.

    python -m tests.faults.corpus [--documents 50000] [--kills 10] [--seed N]

starts Apache Kafka, runs both at full size with an encoder whose vectors are hashes, and prints the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedstream.kafka import make_admin
from embedstream.newest import NewestVersions
from embedstream.offsets import end_offsets
from embedstream.snapshot import SnapshotReader, take_snapshot
from schemas.records import Document, Embedding
from schemas.wire import decode_document, decode_embedding
from tests.brokers import ApacheCluster, find_kafka
from tests.cli import clean_environment, run_cli
from tests.kafka import Topics, make_topics, read_each

__all__ = ["Corpus", "change_and_prune", "kill_and_resume"]

SEGMENT_BYTES = 4096
FLAGS = ("--segment-bytes", str(SEGMENT_BYTES), "--readers", "1")


@dataclass
class Corpus:
    """Documents as files of JSON and of JSON Lines, and what of them should be in the topic.

    Attributes:
        root: The folder.
        contents: By id.
    """

    root: Path
    contents: dict[str, str] = field(default_factory=dict)
    _lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def make(cls, root: Path, count: int, chance: random.Random) -> Corpus:
        """Write `count` documents; one in fifty is of several records."""
        corpus = cls(root)
        for number in range(count):
            words = 1500 if number % 50 == 0 else chance.randrange(5, 60)
            text = f"Document {number}. " + " ".join(chance.choices(WORDS, k=words)) + "."
            if number % 2:
                corpus._lines[f"lines-{number % 7}.jsonl"].append(f"line {number}")
                corpus.contents[f"line {number}"] = text
            else:
                corpus.write(f"{number % 100:02}/{number}.json", text)
        for name in corpus._lines:
            corpus._write_lines(name)
        return corpus

    def write(self, name: str, text: str) -> None:
        """Write a file of one document."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"content": text, "title": f"Title of {name}"}))
        self.contents[name] = text

    def change(self, chance: random.Random, share: float) -> tuple[set[str], set[str]]:
        """Change a share of the documents and delete as many; return the ids of both."""
        picked = chance.sample(sorted(self.contents), 2 * round(len(self.contents) * share))
        changed, deleted = set(picked[::2]), set(picked[1::2])
        for name in picked:
            if name in changed:
                self.contents[name] += " It has changed."
            else:
                del self.contents[name]
            if name.startswith("line "):
                continue
            if name in changed:
                self.write(name, self.contents[name])
            else:
                (self.root / name).unlink()
        for name, ids in self._lines.items():
            if any(each in picked for each in ids):
                self._lines[name] = [each for each in ids if each not in deleted]
                self._write_lines(name)
        return changed, deleted

    def _write_lines(self, name: str) -> None:
        lines = ({"id": each, "content": self.contents[each], "n": each} for each in self._lines[name])
        (self.root / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def kill_and_resume(
    topics: Topics, folder: Path, documents: int, kills: int, seed: int, *flags: str
) -> dict[str, Any]:
    """Kill a producer at random moments, let another end its work, and look at the topic.

    Args:
        topics: Of three partitions, empty.
        folder: Where the corpus and the ledger go.
        documents: How many there are.
        kills: How many producers are killed.
        seed: Decides about the corpus and the moments.
        flags: More of `produce`.

    Returns:
        How many documents were sent again after each kill, and how many the topic held at each that the
        ledger did not: no more than those may be sent again.
    """
    chance = random.Random(seed)
    corpus = Corpus.make(folder / "corpus", documents, chance)
    ledger = folder / "ledger"
    unrecorded, killed_at = [], []
    admin = make_admin(topics.kafka)
    ends = sum(end_offsets(admin, topics.documents, range(3)).values())
    for left in range(kills, 0, -1):
        # Somewhere in the next part, so that each is killed at work.
        target = ends + chance.randrange(1, max(2, 2 * (documents * 9 // 10 - ends) // (left + 1)))
        process = start_produce(topics, corpus.root, ledger, *flags)
        deadline = time.monotonic() + 120
        # As often as the broker answers: a whole run takes seconds.
        ended = None
        while (ends := sum(end_offsets(admin, topics.documents, range(3)).values())) < target:
            assert ended is None, f"produce ended before it was killed, with {ended}"
            assert time.monotonic() < deadline, "the producer sends nothing"
            ended = process.poll()
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
        held = versions_of(topics)
        known = recorded(ledger)
        unrecorded.append(sum(len(each) for each in held.values()) - len(known & set(held)))
        killed_at.append(len(held))
    done = run_produce(topics, corpus.root, ledger)
    found = versions_of(topics)
    assert found.keys() == corpus.contents.keys(), "documents are missing"
    assert newest_contents(found) == corpus.contents
    again = sum(len(versions) - 1 for versions in found.values())
    return {
        "seed": seed,
        "killed_at": killed_at,
        "unrecorded": unrecorded,
        "sent_again": again,
        "last_run": {key: done[key] for key in ("documents", "unchanged", "unchanged_files", "seconds")},
    }


def change_and_prune(
    topics: Topics, fresh: Topics, folder: Path, documents: int, seed: int, share: float = 0.01
) -> dict[str, Any]:
    """Send and embed a corpus, change and delete some of it, do both again, and compare with a fresh run."""
    chance = random.Random(seed)
    corpus = Corpus.make(folder / "corpus", documents, chance)
    ledger = folder / "ledger"
    first = run_produce(topics, corpus.root, ledger)
    assert first["documents"] == documents
    unchanged = run_produce(topics, corpus.root, ledger)
    assert (unchanged["documents"], unchanged["bytes_read"]) == (0, 0)
    embed(topics)
    before = end_offsets(make_admin(topics.kafka), topics.embeddings, range(3))
    changed, deleted = corpus.change(chance, share)
    second = run_produce(topics, corpus.root, ledger, "--prune")
    assert (second["documents"], second["deleted"]) == (len(changed), len(deleted))
    embed(topics)
    embedded = ids_since(topics, before)
    assert embedded == changed | deleted, "others than those that changed were embedded again"
    run_produce(fresh, corpus.root, folder / "another ledger")
    embed(fresh)
    kept, wanted = kept_by_a_reader(topics), kept_by_a_reader(fresh)
    assert kept == wanted
    assert {name for name, *_ in kept} == corpus.contents.keys()
    return {
        "seed": seed,
        "changed": len(changed),
        "deleted": len(deleted),
        "passages_kept": len(kept),
        "seconds": {
            "first": first["seconds"],
            "unchanged": unchanged["seconds"],
            "changed": second["seconds"],
        },
    }


def start_produce(topics: Topics, root: Path, ledger: Path, *flags: str) -> subprocess.Popen[bytes]:
    flags = (*produce_flags(topics, ledger), *flags)
    command = [sys.executable, "-m", "embedstream", "produce", str(root), *flags]
    return subprocess.Popen(
        command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def run_produce(topics: Topics, root: Path, ledger: Path, *flags: str) -> dict[str, Any]:
    done = run_cli(
        "produce", root, *produce_flags(topics, ledger), "--json", *flags, timeout=600.0, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["refused"] == {}
    return summary


def produce_flags(topics: Topics, ledger: Path) -> tuple[str, ...]:
    return (*topics.flags[:4], "--ledger", str(ledger), *FLAGS)


def embed(topics: Topics) -> None:
    """Consume all there is with an encoder of hashes, and verify it."""
    own = [*topics.flags, "--group", topics.documents, "--metrics-port", "-1", "--until-drained"]
    environment = clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.hash_encoder", *own]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    verified = run_cli("verify", *topics.flags, "--group", topics.documents, "--json", timeout=600.0)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def versions_of(topics: Topics) -> dict[str, dict[int, list[Document]]]:
    """Return the versions of each document that the topic holds whole, with their records."""
    found: dict[str, dict[int, list[Document]]] = defaultdict(lambda: defaultdict(list))
    for message in read_each(topics.bootstrap, topics.documents):
        value = message.value()
        if isinstance(value, bytes):
            record = decode_document(value)
            found[record.id][record.version].append(record)
    whole = {
        name: {
            version: records
            for version, records in versions.items()
            if len(records) == records[0].segment.count
        }
        for name, versions in found.items()
    }
    return {name: versions for name, versions in whole.items() if versions}


def newest_contents(found: dict[str, dict[int, list[Document]]]) -> dict[str, str]:
    """Return the content of each document's newest version, put together from its segments."""
    contents = {}
    for name, versions in found.items():
        records = versions[max(versions)]
        assert [record.segment.index for record in records] == list(range(len(records)))
        contents[name] = "".join(record.content for record in records)
    return contents


def recorded(ledger: Path) -> set[str]:
    """Return the ids of the documents that a ledger, left behind by a kill, knows to be in the topic."""
    with closing(sqlite3.connect(ledger)) as connection:
        return {name for (name,) in connection.execute("SELECT id FROM documents WHERE version IS NOT NULL")}


def kept_by_a_reader(topics: Topics) -> Counter[tuple[str, int, int, str, bytes]]:
    """Return the passages of the newest versions; each must be there once."""
    with NewestVersions() as newest:
        reader = SnapshotReader(topics.kafka, take_snapshot(topics.kafka), newest)
        reader.choose()
        kept = Counter(_as_told(embedding) for _, embedding in reader.passages())
    assert max(kept.values()) == 1
    return kept


def _as_told(passage: Embedding) -> tuple[str, int, int, str, bytes]:
    vector = passage.vector.tobytes()
    return (passage.document_id, passage.start_char, passage.end_char, passage.text or "", vector)


def ids_since(topics: Topics, offsets: dict[int, int]) -> set[str]:
    """Return the documents of the embeddings and deletions behind some offsets."""
    found = set()
    for message in read_each(topics.bootstrap, topics.embeddings):
        if (message.offset() or 0) < offsets[message.partition() or 0]:
            continue
        value, key = message.value(), message.key()
        assert isinstance(key, bytes)
        found.add(decode_embedding(value).document_id if isinstance(value, bytes) else key.decode())
    return found


WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "value",
    "labour",
    "class",
    "history",
    "society",
    "power",
    "state",
    "work",
    "people",
    "land",
    "money",
    "trade",
    "time",
    "law",
]


def main() -> None:
    """Runs both, and prints what they found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"--seed {given.seed}", file=sys.stderr)
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder) / "kafka") as cluster:
        work = Path(folder)
        topics, changed, fresh = (make_topics(cluster.bootstrap) for _ in range(3))
        report = {"kills": kill_and_resume(topics, work / "1", given.documents, given.kills, given.seed)}
        embed(topics)
        kept_by_a_reader(topics)
        print(json.dumps(report), flush=True)
        found = change_and_prune(changed, fresh, work / "2", given.documents, given.seed)
        print(json.dumps({"changes": found}))


if __name__ == "__main__":
    main()
