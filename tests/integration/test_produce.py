"""From files on disk to the documents topic of a real broker."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from embedstream.broker import EmbeddedBroker
from embedstream.errors import ConfigError, ServiceUnavailableError, UsageError
from embedstream.kafka import make_admin, make_consumer
from embedstream.settings import KafkaSettings, ProducerSettings, Settings
from producer.documents import PreparedDocument
from producer.produce import produce
from producer.reading import FileToRead, read_task
from producer.refusals import Refusal
from producer.sender import Deletion, Sender
from producer.source import ReadingRules
from producer.walk import FoundFile
from schemas.records import Document
from schemas.wire import decode_document
from tests.brokers import BrokerHandle, on_apache
from tests.cli import run_cli
from tests.kafka import Topics, make_topics, read_all, wait_until

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

RUN = """
import json, sys
from embedstream.settings import KafkaSettings, Settings
from producer.produce import produce
kafka = KafkaSettings(bootstrap_servers=sys.argv[2], documents_topic=sys.argv[3])
print(json.dumps(produce([sys.argv[1]], Settings(kafka=kafka), progress=True).to_json()))
"""


def settings(topics: Topics, segment_bytes: int = 262_144, client: dict[str, str] | None = None) -> Settings:
    kafka = topics.kafka.model_copy(update={"client": client or {}})
    return Settings(kafka=kafka, producer=ProducerSettings(segment_bytes=segment_bytes))


def documents(topics: Topics) -> dict[str, list[Document]]:
    """The records of the documents topic by their id, in the order of their offsets."""
    found: dict[str, list[Document]] = defaultdict(list)
    partitions: dict[str, int] = {}
    for message in read_all(topics.bootstrap, topics.documents):
        record = decode_document(value_of(message))
        assert message.key() == record.id.encode()
        assert partitions.setdefault(record.id, message.partition() or 0) == message.partition()
        found[record.id].append(record)
    return found


def value_of(message: Message) -> bytes:
    value = message.value()
    assert isinstance(value, bytes)
    return value


def reassembled(records: list[Document]) -> str:
    """The text of one document from the records of one version, each checked against the rest."""
    text = ""
    for index, record in enumerate(records):
        assert (record.segment.index, record.segment.count) == (index, len(records))
        assert record.segment.start_char == len(text)
        assert (record.version, record.metadata) == (records[0].version, records[0].metadata)
        text += record.content
    assert hashlib.sha256(text.encode()).hexdigest() == records[0].content_hash
    return text


@pytest.mark.parametrize("segment_bytes", [262_144, 4096])
def test_every_document_of_the_corpus_is_reassembled_with_its_metadata(
    topics: Topics, segment_bytes: int
) -> None:
    summary = produce([CORPUS], settings(topics, segment_bytes), progress=False)
    found = documents(topics)
    files = {str(path.relative_to(CORPUS)): json.loads(path.read_text()) for path in CORPUS.glob("*/*.json")}
    assert len(files) == 133
    assert (summary.documents, summary.refused, summary.failure) == (133, {}, None)
    assert summary.records == sum(map(len, found.values()))
    assert summary.bytes == sum(len(file["content"].encode()) for file in files.values())
    assert summary.bytes_read == sum(path.stat().st_size for path in CORPUS.glob("*/*.json"))
    assert found.keys() == files.keys()
    for name, file in files.items():
        assert reassembled(found[name]) == file["content"]
        assert max(len(record.content.encode()) for record in found[name]) <= segment_bytes
        first = found[name][0]
        assert first.source == str(CORPUS / name)
        assert {key: first.metadata[key] for key in ("title", "author", "date")} == {
            key: file[key] for key in ("title", "author", "date")
        }
        assert first.metadata["word_count"] == str(file["word_count"])
        assert "content_hash" not in first.metadata


def write_mixed_corpus(root: Path) -> None:
    files: dict[str, bytes] = {
        "good.json": json.dumps({"content": "Good.", "title": "T"}).encode(),
        "broken.json": b'{"content": "x"',
        "list.json": b"[]",
        "missing.json": b'{"title": "x"}',
        "empty.json": b'{"content": ""}',
        "blank.json": b'{"content": " \\n\\t "}',
        "number.json": b'{"content": 1}',
        "latin1.json": b'{"content": "caf\xe9"}',
        "nul.json": b'{"content": "a\\u0000b"}',
        "surrogate.json": b'{"content": "\\ud800"}',
        "hash.json": b'{"content": "x", "content_hash": "0123456789abcdef"}',
        "bomb.json": b"[" * 100_000,
        "line.txt": b"x y " * 5_000_000,
        "word.txt": b"w" * 100_000,
        "scripts.txt": "😀 עברית العربية 漢字仮名 हिन्दी".encode(),
        "front.md": b"---\ntitle: No\xc3\xabl\nlanguage: no\n---\nBody.\n",
        "front-broken.md": b"---\ntitle: a: b\nmore\n---\nBody.\n",
        "twice.jsonl": b'{"id": "same", "content": "First."}\n{"id": "same", "content": "Second."}\n',
        ".hidden": b"",
        "page.html": b"<p>",
        "wide.json": json.dumps({"content": "Wide.", "small": "s", "raw": "r" * 40_000}).encode(),
    }
    for name, data in files.items():
        (root / name).write_bytes(data)


def test_what_is_bad_is_refused_by_reason_and_all_beside_it_arrives(topics: Topics, tmp_path: Path) -> None:
    write_mixed_corpus(tmp_path)
    summary = produce([tmp_path], settings(topics), progress=False)
    assert summary.refused == {
        "empty": 2,
        "not_json": 1,
        "not_an_object": 1,
        "no_content": 1,
        "content_not_text": 1,
        "not_utf8": 1,
        "lone_surrogate": 1,
        "wrong_hash": 1,
        "nested_too_deep": 1,
        "bad_front_matter": 1,
    }
    assert {Path(refusal.path).name for refusal in summary.refusals if refusal.reason == "empty"} == {
        "empty.json",
        "blank.json",
    }
    assert summary.notices == {"hidden": 1, "unknown_suffix": 1, "metadata_cut": 1, "repeated_id": 1}
    found = documents(topics)
    assert found.keys() == {
        *("good.json", "nul.json", "line.txt", "word.txt", "scripts.txt", "front.md", "same", "wide.json")
    }
    assert summary.documents == 9
    assert reassembled(found["nul.json"]) == "a\x00b"
    assert reassembled(found["line.txt"]) == "x y " * 5_000_000
    assert len(found["line.txt"]) > 70
    assert reassembled(found["scripts.txt"]) == (tmp_path / "scripts.txt").read_text()
    assert found["front.md"][0].metadata == {"title": "Noël", "language": "no"}
    assert found["wide.json"][0].metadata == {"small": "s"}
    first, second = found["same"]
    assert (first.content, second.content) == ("First.", "Second.")
    assert second.version > first.version


def write_bad_files(root: Path) -> set[str]:
    """Write files that are bad as files, each beside a good one; return the ids of what can be sent."""
    line = json.dumps({"id": "line", "content": "A whole line."}).encode() + b"\n"
    # What does not compress: the first line comes out whole, though the rest is cut off.
    noise = b"".join(hashlib.sha256(bytes([n])).hexdigest().encode() + b"\n" for n in range(200))
    (root / "cut.jsonl.gz").write_bytes(gzip.compress(line + noise)[:-2000])
    (root / "cut.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(noise)[:-2000])
    (root / "wrong.json.zst").write_bytes(b"no compression at all")
    (root / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 70_000_000))
    pq.write_table(pa.table({"text": ["a"]}), root / "other.parquet")
    pq.write_table(pa.table({"id": ["row"], "content": ["A row."]}), root / "good.parquet")
    (root / "half.parquet").write_bytes((root / "good.parquet").read_bytes()[:-100])
    (root / "good.txt").write_text("Good.")
    (root / "folder").mkdir()
    (root / "folder" / "loop").symlink_to(root)
    (root / "gone.md").symlink_to(root / "nowhere")
    return {"line", "row", "good.txt"}


@pytest.mark.slow
def test_bad_files_are_named_and_counted_and_the_rest_goes_on(topics: Topics, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    wanted = write_bad_files(corpus)
    ledger = tmp_path / "ledger"
    flags: list[str | Path] = ["produce", corpus, *topics.flags[:4], "--ledger", ledger, "--json"]
    done = run_cli(*flags)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # The lines of noise are refused one by one.
    assert told["refused"].pop("not_json") > 10
    refusals = [each for each in told["refusals"] if each["reason"] != "not_json"]
    assert told["refused"] == {
        "truncated": 2,
        "corrupt": 2,
        "expands_too_much": 1,
        "no_column": 1,
        "vanished": 1,
    }
    assert {Path(each["path"]).name: each["reason"] for each in refusals} == {
        "cut.jsonl.gz": "truncated",
        "cut.txt.zst": "truncated",
        "wrong.json.zst": "corrupt",
        "half.parquet": "corrupt",
        "bomb.jsonl.gz": "expands_too_much",
        "other.parquet": "no_column",
        "gone.md": "vanished",
    }
    assert all(each["message"] for each in refusals)
    assert told["notices"] == {"symlink_loop": 1}
    assert documents(topics).keys() == wanted
    strict = run_cli(*flags, "--strict")
    assert strict.returncode == 1
    again = json.loads(strict.stdout)
    assert (again["documents"], again["refused"]["truncated"]) == (0, 2)


def test_a_full_queue_makes_the_reader_wait(topics: Topics, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"content": f"Document {n}."}) + "\n" for n in range(500)))
    client = {"queue.buffering.max.messages": "7", "linger.ms": "1"}
    summary = produce([path], settings(topics, client=client), progress=False)
    assert (summary.documents, summary.refused) == (500, {})
    assert len(documents(topics)) == 500


def make_small_topic(bootstrap: str, max_bytes: int) -> Topics:
    name = f"test-{uuid.uuid4().hex[:8]}"
    admin = make_admin(KafkaSettings(bootstrap_servers=bootstrap))
    topic = NewTopic(name, 1, 1, config={"max.message.bytes": str(max_bytes)})
    admin.create_topics([topic])[name].result(30)
    return Topics(bootstrap, name, "unused", "unused")


def test_a_record_larger_than_the_topic_takes_is_refused_with_the_mend(
    broker: BrokerHandle, tmp_path: Path
) -> None:
    topics = make_small_topic(broker.bootstrap, 20_000)
    (tmp_path / "large.txt").write_text("word " * 10_000)
    # Its first segment would fit.
    (tmp_path / "half.txt").write_text("a" * 16_000 + "\n\n" + "b" * 28_000)
    (tmp_path / "small.txt").write_text("word " * 100)
    summary = produce([tmp_path], settings(topics, 30_000), progress=False)
    assert (summary.documents, summary.refused, summary.failure) == (1, {"too_large": 2}, None)
    assert "max.message.bytes" in summary.refusals[0].message
    assert "producer.segment_bytes" in summary.refusals[0].message
    assert documents(topics).keys() == {"small.txt"}
    again = produce([tmp_path], settings(topics, 16_384), progress=False)
    assert (again.documents, again.unchanged_files, again.refused) == (2, 1, {})


@dataclass
class Refusals:
    """Keeps what a sender says did not arrive."""

    found: list[Refusal]

    def arrived(self, item: PreparedDocument | Deletion, version: int) -> None:
        pass

    def not_arrived(self, item: PreparedDocument | Deletion, refusal: Refusal) -> None:
        self.found.append(refusal)


@pytest.mark.slow
def test_a_record_that_the_broker_refuses_is_reported_and_the_rest_arrives(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    topics = make_topics(kafka_broker.bootstrap, partitions=1)
    refusals: list[Refusal] = []
    told = settings(topics, client={"linger.ms": "0"})
    sender = Sender(told, make_admin(told.kafka), Refusals(refusals))
    lower_limit(topics, 20_000)

    def send(name: str, text: bytes) -> None:
        (tmp_path / name).write_bytes(text)
        (chunk,) = read_task([FileToRead(1, FoundFile(str(tmp_path / name), name))], ReadingRules())
        (document,) = chunk.documents
        sender.send(document, str(tmp_path / name))
        wait_until(lambda: sender.flush(0.1), message=f"{name} was never settled")

    send("a.txt", b"Small.")
    large = random.Random(1).randbytes(64_000).hex().encode()  # what compresses well would fit after all
    taken: list[str] = []
    # The limit reaches the partition a moment after it was set.
    while not refusals:
        taken.append(f"b{len(taken)}.txt")
        assert len(taken) < 500, "the broker takes what is too large"
        send(taken[-1], large)
    refused = taken.pop()
    send("c.txt", b"Small again.")
    assert (sender.documents, sender.failure) == (2 + len(taken), None)
    assert [(refusal.reason, Path(refusal.path).name) for refusal in refusals] == [("too_large", refused)]
    assert documents(topics).keys() == {"a.txt", "c.txt", *taken}


def lower_limit(topics: Topics, max_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topics.documents, incremental_configs=[entry])
    admin = make_admin(topics.kafka)
    admin.incremental_alter_configs([resource])[resource].result(30)


def write_many(path: Path, count: int = 150_000) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps({"id": str(n), "content": f"Document {n}."}) + "\n" for n in range(count))


def something_arrived(topics: Topics) -> Callable[[], bool]:
    consumer = make_consumer(topics.kafka, group_id="unused")
    partitions = [TopicPartition(topics.documents, partition) for partition in range(3)]
    return lambda: any(consumer.get_watermark_offsets(each, timeout=5)[1] > 0 for each in partitions)


@on_apache
def test_ctrl_c_delivers_what_was_accepted_and_says_so(topics: Topics, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_many(path)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), topics.bootstrap, topics.documents],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        wait_until(something_arrived(topics), message="nothing arrived")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    summary = json.loads(output)
    assert process.returncode == 0
    assert summary["interrupted_by"] == signal.SIGINT
    assert 0 < summary["documents"] < 150_000
    assert documents(topics).keys() == {str(n) for n in range(summary["documents"])}


@pytest.mark.slow
def test_a_broker_that_is_lost_ends_the_run_with_what_arrived(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_many(path)
    broker = EmbeddedBroker(tmp_path / "broker")
    with broker:
        topics = make_topics(broker.bootstrap)

        def stop() -> None:
            wait_until(something_arrived(topics))
            broker.stop()

        stopper = threading.Thread(target=stop)
        stopper.start()
        summary = produce([path], settings(topics, client={"message.timeout.ms": "2000"}), progress=False)
        stopper.join()
    assert isinstance(summary.failure, ServiceUnavailableError)
    assert 0 < summary.documents < 150_000
    assert list(summary.refused) == ["not_delivered"]
    assert summary.documents + summary.refused["not_delivered"] <= 150_000
    assert len(summary.refusals) == 10


def test_a_topic_that_is_missing_is_named_with_the_mend(broker: BrokerHandle, tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap, documents_topic="not-there")
    with pytest.raises(ConfigError, match=r"not-there.*embedstream topics create"):
        produce([tmp_path], Settings(kafka=kafka), progress=False)


def test_no_broker_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstream.kafka.CONNECT_TIMEOUT_SECONDS", 1.0)
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    with pytest.raises(ServiceUnavailableError, match="bootstrap_servers"):
        produce([tmp_path], Settings(kafka=kafka), progress=False)


def test_a_path_that_does_not_exist_is_told_before_the_broker_is_asked(tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    with pytest.raises(UsageError, match="gone"):
        produce([tmp_path / "gone"], Settings(kafka=kafka), progress=False)
