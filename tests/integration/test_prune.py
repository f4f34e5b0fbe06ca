"""What is deleted from the topic because it has vanished from the corpus, and what never is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstream.errors import FindingError
from tests.brokers import BrokerHandle
from tests.kafka import make_topics
from tests.ledgered import Corpus


@pytest.fixture
def corpus(broker: BrokerHandle, tmp_path: Path) -> Corpus:
    return Corpus(tmp_path, make_topics(broker.bootstrap, partitions=1))


def test_without_prune_nothing_is_deleted(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    (corpus.root / "a.json").unlink()
    assert corpus.sent() == set()


def test_what_has_vanished_is_deleted_and_comes_back(corpus: Corpus) -> None:
    for n in range(40):
        corpus.write(f"{n:02}.json", f"Document {n}.")
    lines = [{"id": f"line {n}", "content": f"Line {n}."} for n in range(3)]
    path = corpus.write_lines("lines.jsonl", *lines)
    corpus.run()
    (corpus.root / "07.json").unlink()
    corpus.write_lines("lines.jsonl", *lines[:2])
    assert corpus.sent(prune=True) == {"-07.json", "-line 2"}
    assert corpus.sent(prune=True) == set()
    corpus.write("07.json", "Document 7.")
    corpus.write_lines("lines.jsonl", *lines)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert corpus.sent(prune=True) == {"07.json", "line 2"}
    assert len(corpus.kept()) == 43


@pytest.mark.slow
def test_a_line_that_a_run_without_prune_found_gone_is_deleted_by_the_next_with_it(corpus: Corpus) -> None:
    lines = [{"id": str(n), "content": f"Line {n}."} for n in range(40)]
    corpus.write_lines("lines.jsonl", *lines)
    corpus.run()
    corpus.write_lines("lines.jsonl", *lines[1:])
    assert corpus.sent() == set()
    assert corpus.sent(prune=True) == {"-0"}


def test_more_than_a_twentieth_is_deleted_by_force_only(corpus: Corpus) -> None:
    for n in range(20):
        corpus.write(f"{n:02}.json", f"Document {n}.")
    corpus.run()
    for n in range(2):
        (corpus.root / f"{n:02}.json").unlink()
    refused = corpus.run(prune=True)
    assert isinstance(refused.failure, FindingError)
    assert "2 of 20" in str(refused.failure)
    assert "--force" in str(refused.failure)
    assert corpus.count() == 20
    assert corpus.sent(prune=True, force=True) == {"-00.json", "-01.json"}


def test_what_can_not_be_walked_has_not_vanished(corpus: Corpus) -> None:
    corpus.write("a/a.json", "A.")
    corpus.write("b.json", "B.")
    corpus.run()
    (corpus.root / "a" / "a.json").rename(corpus.root / "elsewhere")
    (corpus.root / "gone.json").symlink_to("nowhere")
    refused = corpus.run(prune=True, force=True)
    assert isinstance(refused.failure, FindingError)
    assert "not all of the corpus could be read" in str(refused.failure)
    assert corpus.count() == 2


def test_a_document_that_is_refused_now_keeps_its_old_version(corpus: Corpus) -> None:
    corpus.write("a.json", "A.")
    corpus.run()
    (corpus.root / "a.json").write_text("{")
    assert corpus.sent(prune=True, force=True) == set()


@pytest.mark.slow
def test_other_roots_are_not_pruned(corpus: Corpus) -> None:
    corpus.write("a/1.json", "One.")
    corpus.write("b/2.json", "Two.")
    corpus.run(corpus.root / "a")
    corpus.run(corpus.root / "b")
    assert corpus.run(corpus.root / "a", prune=True, force=True).deleted == 0
    assert corpus.kept() == {"1.json": "One.", "2.json": "Two."}


@pytest.mark.slow
def test_a_file_that_was_moved_takes_its_document_with_it(corpus: Corpus) -> None:
    corpus.write("old/a.json", "Text.", id="named")
    corpus.write("b.json", "Other.")
    corpus.run()
    (corpus.root / "new").mkdir()
    (corpus.root / "old" / "a.json").rename(corpus.root / "new" / "z.json")
    assert corpus.sent(prune=True, force=True) == set()
    assert corpus.sent(prune=True, rehash=True) == set()
    (corpus.root / "new" / "z.json").unlink()
    assert corpus.sent(prune=True, force=True) == {"-named"}


def test_nothing_has_vanished_while_a_file_can_not_be_read(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.write("a.json", "A.", id="a")
    corpus.write("b.json", "B.")
    corpus.run()
    # It may be in there now.
    (corpus.root / "a.json").unlink()
    pq.write_table(pa.table({"id": ["a"], "content": ["A."]}), corpus.root / "a.parquet")
    with monkeypatch.context() as patch:
        for name in ("pyarrow", "pyarrow.parquet"):
            patch.setitem(sys.modules, name, None)
        refused = corpus.run(prune=True, force=True)
    assert isinstance(refused.failure, FindingError)
    assert refused.refused == {"extra_missing": 1}
    assert corpus.sent(prune=True, force=True) == set()
    assert corpus.kept() == {"a": "A.", "b.json": "B."}


@pytest.mark.slow
def test_what_a_file_with_a_bad_line_lacks_is_kept_and_told(corpus: Corpus) -> None:
    lines = [{"id": str(n), "content": f"Line {n}."} for n in range(3)]
    path = corpus.write_lines("lines.jsonl", *lines)
    corpus.run()
    corpus.write_lines("lines.jsonl", *lines[:2], {"id": "2"})
    summary = corpus.run(prune=True, force=True)
    assert (summary.deleted, summary.notices) == (0, {"not_pruned": 1})
    corpus.write_lines("lines.jsonl", *lines[:2])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert corpus.sent(prune=True, force=True) == {"-2"}
