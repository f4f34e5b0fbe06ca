"""Runs over a corpus that was sent before: what is read, sent and deleted, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embedstream.errors import ConfigError, TryAgainError, UsageError
from embedstream.kafka import make_admin
from embedstream.metrics import Metrics
from embedstream.offsets import end_offsets
from embedstream.settings import MetricsSettings
from producer.ledger import Ledger
from tests.brokers import BrokerHandle
from tests.cli import start_cli
from tests.kafka import make_topics, wait_until
from tests.ledgered import Corpus


@pytest.fixture
def corpus(broker: BrokerHandle, tmp_path: Path) -> Corpus:
    return Corpus(tmp_path, make_topics(broker.bootstrap, partitions=1))


def test_a_second_run_reads_and_sends_nothing(corpus: Corpus) -> None:
    for n in range(30):
        corpus.write(f"{n % 3}/{n}.json", f"Document {n}.")
    corpus.write_lines("many.jsonl", {"id": "x", "content": "X."}, {"content": "Y."})
    first = corpus.run()
    assert (first.documents, first.unchanged_files) == (32, 0)
    second = corpus.run()
    assert (second.documents, second.bytes_read, second.unchanged_files) == (0, 0, 31)
    assert corpus.run(rehash=True).unchanged == 32
    assert corpus.count() == 32


def test_only_what_has_changed_is_sent_and_its_version_rises(corpus: Corpus) -> None:
    corpus.write("content.json", "Before.")
    corpus.write("metadata.json", "Text.", title="Before")
    corpus.write("touched.json", "Touched.", a="1", b="2")
    corpus.write_lines("lines.jsonl", {"id": "1", "content": "One."}, {"id": "2", "content": "Two."})
    corpus.run()
    corpus.write("content.json", "After..")
    corpus.write("metadata.json", "Text.", title="After.")
    corpus.write("touched.json", "Touched.", b="2", a="1")
    corpus.write_lines("lines.jsonl", {"id": "1", "content": "One."}, {"id": "2", "content": "Two!"})
    for path in corpus.root.iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert corpus.sent() == {"content.json", "metadata.json", "2"}
    assert corpus.kept()["content.json"] == "After.."


@pytest.mark.slow
def test_a_document_goes_from_a_to_b_and_back_to_a(corpus: Corpus) -> None:
    for content in ("A.", "B...", "A."):
        corpus.write("one.json", content)
        assert corpus.sent() == {"one.json"}
        assert corpus.kept() == {"one.json": content}


def test_what_was_refused_is_told_again_without_being_read(corpus: Corpus) -> None:
    corpus.write("good.json", "Good.")
    corpus.write("empty.json", "")
    corpus.write_lines("lines.jsonl", {"id": "1", "content": "One."}, {"title": "No content"})
    first = corpus.run()
    second = corpus.run()
    assert second.bytes_read == 0
    assert first.refused == second.refused == {"empty": 1, "no_content": 1}
    assert sorted(each.path for each in first.refusals) == sorted(each.path for each in second.refusals)
    corpus.write("empty.json", "No more.")
    assert corpus.run().refused == {"no_content": 1}


def test_exact_duplicates_are_sent_once_and_counted(corpus: Corpus) -> None:
    for name in ("a.json", "b.json", "c.json"):
        corpus.write(name, "The same.")
    assert (corpus.run().documents, corpus.count()) == (1, 1)
    assert corpus.run(rehash=True).duplicates == 2
    assert corpus.sent(duplicates="keep") == {"b.json", "c.json"}


@pytest.mark.slow
def test_a_duplicate_is_sent_when_the_one_that_was_sent_has_changed(corpus: Corpus) -> None:
    for name in ("a.json", "b.json", "c.json"):
        corpus.write(name, "The same.")
    corpus.run()
    corpus.write("a.json", "Another one.")
    assert corpus.sent() == {"a.json", "b.json"}
    assert corpus.sent() == set()
    assert corpus.kept() == {"a.json": "Another one.", "b.json": "The same."}


@pytest.mark.slow
def test_a_duplicate_is_sent_when_the_one_that_was_sent_has_vanished(corpus: Corpus) -> None:
    for name in ("a.json", "b.json"):
        corpus.write(name, "The same.")
    corpus.run()
    (corpus.root / "a.json").unlink()
    assert corpus.sent(prune=True, force=True) == {"-a.json", "b.json"}
    assert corpus.kept() == {"b.json": "The same."}


def test_one_id_in_two_files_is_the_last_ones_and_falls_back_to_the_first(corpus: Corpus) -> None:
    corpus.write("a.json", "First.", id="same")
    corpus.write("b.json", "Second.", id="same")
    corpus.run()
    assert corpus.kept() == {"same": "Second."}
    assert corpus.sent(rehash=True) == set()
    (corpus.root / "b.json").unlink()
    corpus.run(prune=True, force=True)
    assert corpus.kept() == {"same": "First."}


@pytest.mark.slow
def test_what_decides_about_the_documents_has_files_read_again(corpus: Corpus) -> None:
    corpus.write("a.json", "A.", name="named")
    corpus.run()
    again = corpus.run(id_field="name")
    assert (again.unchanged_files, again.duplicates) == (0, 1)  # the topic has it as a.json
    assert corpus.sent(id_field="name", prune=True, force=True) == {"-a.json", "named"}
    assert corpus.run(id_field="name").bytes_read == 0


def forget(path: Path) -> None:
    """Make a ledger that of a run which was killed before it wrote anything down."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM documents")
        connection.execute("DELETE FROM files")
        connection.execute("UPDATE offsets SET next = 0")
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'running'")


def test_after_a_kill_what_has_arrived_is_found_in_the_topic(corpus: Corpus) -> None:
    for n in range(10):
        corpus.write(f"{n}.json", f"Document {n}. " * 2000, title="T")
    corpus.run(segment_bytes=4096)
    forget(corpus.ledger)
    corpus.write("new.json", "New.")
    assert corpus.sent(segment_bytes=4096) == {"new.json"}
    assert corpus.sent() == set()


def test_the_ledger_is_made_anew_from_the_topic(corpus: Corpus) -> None:
    for n in range(10):
        corpus.write(f"{n}.json", f"Document {n}.")
    corpus.run()
    (corpus.root / "3.json").unlink()
    corpus.run(prune=True, force=True)
    corpus.ledger.write_bytes(b"damaged" * 1000)
    with pytest.raises(ConfigError, match=r"no ledger.*--ledger-from-topic"):
        corpus.run()
    corpus.write("3.json", "Document 3.")
    corpus.write("4.json", "Document four.")
    assert corpus.sent(ledger_from_topic=True) == {"3.json", "4.json"}
    assert corpus.sent() == set()
    (corpus.root / "5.json").unlink()
    assert corpus.sent(prune=True, force=True) == {"-5.json"}


def test_a_ledger_of_another_topic_is_refused(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    other = make_topics(corpus.topics.bootstrap, partitions=1)
    corpus.topics = other
    with pytest.raises(ConfigError, match=rf"{corpus.ledger}.*about topic .*{other.documents}.*--ledger"):
        corpus.run()


def test_a_ledger_of_another_cluster_is_refused(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    with closing(sqlite3.connect(corpus.ledger)) as connection, connection:
        connection.execute("UPDATE meta SET value = 'elsewhere' WHERE name = 'cluster_id'")
    with pytest.raises(ConfigError, match="about cluster elsewhere"):
        corpus.run()


def test_a_topic_that_holds_less_than_the_ledger_knows_is_refused(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    with closing(sqlite3.connect(corpus.ledger)) as connection, connection:
        connection.execute("UPDATE offsets SET next = 1000")
    with pytest.raises(ConfigError, match="holds less than"):
        corpus.run()


def test_the_second_of_two_runs_at_once_is_refused(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    with closing(sqlite3.connect(corpus.ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(TryAgainError, match="in use by another run"):
            corpus.run()
        with pytest.raises(TryAgainError, match="in use by another run"):
            corpus.run(ledger_from_topic=True)
        connection.execute("ROLLBACK")
    assert corpus.sent() == set()


def test_a_full_disk_ends_the_run_and_loses_nothing(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(300):
        corpus.write(f"{n}.json", f"Document {n}.")
    opened = Ledger.open.__func__  # type: ignore[attr-defined]

    def open_on_a_small_disk(cls: type[Ledger], *arguments: Any) -> Ledger:
        ledger: Ledger = opened(cls, *arguments)
        # What SQLite answers then is what it answers on a full disk.
        ledger.connection.execute("PRAGMA max_page_count = 12")
        return ledger

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "open", classmethod(open_on_a_small_disk))
        summary = corpus.run()
    assert isinstance(summary.failure, TryAgainError)
    assert "make room" in str(summary.failure)
    assert summary.documents == 300
    assert corpus.sent() == set()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ledger": "none", "prune": True}, "--prune needs a ledger"),
        ({"ledger": "none", "rehash": True}, "--rehash needs a ledger"),
        ({"prune": True, "limit": 1}, "--prune needs the whole corpus"),
        ({"prune": True, "exclude": ("x",)}, "--prune needs the whole corpus"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    corpus: Corpus, changes: dict[str, Any], told: str
) -> None:
    corpus.write("a.json", "A.")
    with pytest.raises(UsageError, match=told):
        corpus.run(**changes)


def test_without_a_ledger_everything_is_sent_and_nothing_written(corpus: Corpus) -> None:
    for name in ("a.json", "b.json"):
        corpus.write(name, "The same.")
    assert corpus.run(ledger="none").documents == 2
    assert corpus.run(ledger="none").documents == 2
    assert not corpus.ledger.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_order_and_the_next_goes_on(
    corpus: Corpus, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # Enough for half a minute at the rate.
    lines = [{"id": str(n), "content": f"Document {n}. {'word ' * 30}"} for n in range(20_000)]
    path = corpus.write_lines("lines.jsonl", *lines)
    flags = [*corpus.topics.flags[:4], "--ledger", str(corpus.ledger), "--rate", "100KB", "--json"]
    admin = make_admin(corpus.topics.kafka)
    process = start_cli("produce", path, *flags, log=tmp_path / "log")
    try:
        # Reading to the end would follow the run to its own.
        wait_until(lambda: any(end_offsets(admin, corpus.topics.documents, range(1)).values()) or None)
        process.send_signal(number)
        assert process.wait(30) == code
    finally:
        process.kill()
        process.wait()
    told = (tmp_path / "log").read_text()
    sent = json.loads(told[told.index("{") :])["documents"]
    assert 0 < sent == corpus.count() < 20_000
    summary = corpus.run(path)
    assert (summary.documents, summary.unchanged) == (20_000 - sent, sent)


def test_the_metrics_say_what_became_of_the_documents(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Metrics] = []

    def serve(metrics: Metrics, settings: MetricsSettings) -> None:
        assert settings.port == -1
        made.append(metrics)

    monkeypatch.setattr("producer.produce.serve", serve)
    for name in ("a.json", "b.json"):
        corpus.write(name, "The same.")
    corpus.write("c.json", "")
    read = corpus.run().bytes_read
    corpus.run()
    first, second = (each.registry.get_sample_value for each in made)
    told = [first("embedstream_documents_total", {"result": r}) for r in ("sent", "duplicate", "refused")]
    assert told == [1, 1, 1]
    assert first("embedstream_corpus_bytes_total", {"result": "read"}) == read
    assert second("embedstream_corpus_bytes_total", {"result": "unchanged"}) == read


@pytest.mark.slow
def test_several_readers_send_what_one_does(corpus: Corpus) -> None:
    for n in range(3000):
        corpus.write(f"{n % 7}/{n}.json", f"Document {n}.")
    corpus.write("bad.json", "")
    summary = corpus.run(readers=2)
    assert (summary.documents, summary.refused) == (3000, {"empty": 1})
    assert corpus.kept() == {f"{n % 7}/{n}.json": f"Document {n}." for n in range(3000)}
    assert corpus.sent(readers=2) == set()
