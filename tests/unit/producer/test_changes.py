"""What is sent of a corpus that a ledger knows, without a broker: what was sent arrives at once, or late."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from embedstream.settings import ProducerSettings
from producer.changes import Changes
from producer.corpus import open_corpus, root_name
from producer.documents import PreparedDocument, RawDocument, check, prepare
from producer.ledger import FROM_TOPIC, Identity, Ledger, Place, Rows
from producer.prune import Vanished
from producer.reading import read_task
from producer.refusals import Reason, Refusal

IDENTITY = Identity("cluster", "documents", "")


@dataclass
class Found:
    """What a run did.

    Attributes:
        sent: Ids, in order.
        replaced: Those that took the place of another document of the run.
        read: How many files were read.
        refused: What was refused, or told again, by reason.
        deleted: Ids, where it pruned.
        kept: What it did not delete.
    """

    sent: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    read: int = 0
    unchanged: int = 0
    duplicates: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
    deleted: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


class Job:
    """A corpus and its ledger; each run has versions that rise."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "corpus"
        self.root.mkdir()
        self.path = folder / "ledger"
        self._version = 0
        self._time = 0

    def lines(self, name: str, *documents: object) -> None:
        """Write a file, as new."""
        self._time += 1
        path = self.root / name
        path.write_text("".join(json.dumps(each) + "\n" for each in documents))
        os.utime(path, ns=(self._time, self._time))

    def run(
        self,
        *,
        duplicates: str = "skip",
        too_large: Collection[str] = (),
        prune: bool = False,
        acknowledged_late: bool = False,
    ) -> Found:
        """Run once; the ids of `too_large` are what the broker refuses."""
        found = Found()
        sent: list[tuple[PreparedDocument, int]] = []
        corpus = open_corpus([self.root], ProducerSettings())
        with Ledger.open(self.path, IDENTITY) as ledger:
            ledger.begin_run({})
            changes = Changes(ledger, 1, skip_duplicates=duplicates == "skip")
            vanished = Vanished(ledger, [root_name(path) for path in corpus.paths])
            for batch in corpus.batches(lambda _: None):
                task, numbers, told = changes.unread(batch, root_name(batch.root))
                vanished.saw(numbers)
                found.read += len(task)
                for refusal, count in told:
                    found.refused[refusal.reason] += count
                for chunk in read_task(task, corpus.rules):
                    for file, refusal in chunk.refusals:
                        found.refused[refusal.reason] += 1
                        changes.refused(file, refusal)
                    for document, above, replaces in changes.choose(chunk.documents):
                        if document.id in too_large:
                            refusal = Refusal(Reason.TOO_LARGE, document.id, "too large")
                            changes.refused(document.file, refusal, document)
                            continue
                        self._version = max(self._version, above) + 1
                        found.sent.append(document.id)
                        found.replaced += [document.id] if replaces else []
                        changes.sent(document, self._version)
                        sent.append((document, self._version))
                        if not acknowledged_late:
                            changes.arrived(*sent.pop())
                    for file in chunk.ended:
                        changes.ended(file)
            for each in sent:
                changes.arrived(*each)
            changes.commit({})
            if prune:
                vanished.find()
                found.kept = [count for count, _ in vanished.kept()]
                for deletion in vanished.deletions():
                    self._version += 1
                    changes.gone(deletion, self._version)
                    found.deleted.append(deletion.id)
                changes.commit({})  # and no more: as if it was killed here
            ledger.end_run()
        found.unchanged, found.duplicates = changes.unchanged, changes.duplicates
        return found

    def rows(self, table: str) -> int:
        with closing(Ledger.open(self.path, IDENTITY)) as ledger:
            (count,) = ledger.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)

    def found_in_topic(self, name: str, document: dict[str, object], version: int, source: str) -> None:
        """Give the ledger what a run that was killed has sent."""
        raw = RawDocument(document.pop("content"), document, source, name)
        prepared = prepare(check(raw), 0, None, 10_000)
        hashes = prepared.content_hash, prepared.metadata_hash
        with Ledger.open(self.path, IDENTITY) as ledger:
            known = ledger.places([prepared.id]).get(prepared.id, [])
            ledger.read_again([each.file for each in known])
            place = Place(prepared.id, FROM_TOPIC, *hashes, version, 0, source)
            ledger.write(Rows(places=[place], elsewhere=[(prepared.id, FROM_TOPIC)], highest_version=version))
            self._version = max(self._version, version)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_lines_with_one_text_and_other_metadata_are_sent_once_however_often_their_file_grows(
    job: Job,
) -> None:
    page = "Not found."
    lines: list[dict[str, object]] = [{"content": page, "url": str(n)} for n in range(5)]
    job.lines("a.jsonl", *lines, lines[0])
    first = job.run()
    assert (len(first.sent), first.duplicates, first.replaced) == (1, 5, [])
    job.lines("a.jsonl", *lines, {"content": "Another."})
    second = job.run()
    assert (len(second.sent), second.unchanged, second.duplicates) == (1, 1, 4)


def test_kept_duplicates_of_one_id_and_other_texts_under_it_are_told(job: Job) -> None:
    same: list[dict[str, object]] = [{"content": "Same.", "url": str(n)} for n in range(3)]
    job.lines("a.jsonl", *same, {"id": "x", "content": "One."})
    job.lines("b.jsonl", {"id": "x", "content": "Two."})
    found = job.run(duplicates="keep")
    assert len(found.sent) == 5
    assert len(found.replaced) == 3
    assert found.replaced[-1] == "x"
    assert job.run(duplicates="keep").read == 0


def test_of_two_files_with_one_id_whose_acknowledgements_come_together_the_later_counts(job: Job) -> None:
    job.lines("a.jsonl", {"id": "x", "content": "One."})
    job.lines("b.jsonl", {"id": "x", "content": "Two."})
    assert job.run(acknowledged_late=True).sent == ["x", "x"]
    with closing(Ledger.open(job.path, IDENTITY)) as ledger:
        versions = sorted((each.version or 0 for each in ledger.places(["x"])["x"]), reverse=True)
    assert versions == [2, 0]
    assert job.run().sent == []


def test_a_text_that_another_one_replaced_under_its_id_is_sent_for_the_next_that_has_it(job: Job) -> None:
    job.lines("a.jsonl", {"id": "x", "content": "First."}, {"id": "x", "content": "Second."})
    job.lines("b.jsonl", {"id": "y", "content": "First."})
    found = job.run(acknowledged_late=True)
    assert (found.sent, found.duplicates) == (["x", "x", "y"], 0)


def test_a_document_that_changed_since_the_last_run_replaces_nothing_of_this_one(job: Job) -> None:
    job.lines("a.jsonl", {"id": "x", "content": "One."})
    job.run()
    job.lines("a.jsonl", {"id": "x", "content": "Two."})
    found = job.run()
    assert (found.sent, found.replaced) == (["x"], [])


def test_a_file_of_which_the_broker_refuses_something_is_one_file_for_ever(job: Job) -> None:
    lines: list[dict[str, object]] = [{"id": str(n), "content": f"Text {n}."} for n in range(3)]
    job.lines("a.jsonl", *lines)
    assert job.run(too_large={"1"}).sent == ["0", "2"]
    sizes = job.rows("files"), job.rows("documents")
    for _ in range(3):
        again = job.run(too_large={"1"})
        assert (again.read, again.sent, again.unchanged) == (1, [], 2)
    assert (job.rows("files"), job.rows("documents")) == sizes
    (job.root / "a.jsonl").unlink()
    job.lines("b.jsonl", {"id": "b", "content": "B."})
    assert sorted(job.run(prune=True).deleted) == ["0", "2"]


def test_a_file_with_thousands_of_bad_lines_is_not_read_again_and_all_are_told(job: Job) -> None:
    bad: list[dict[str, object]] = [{"title": str(n)} for n in range(2000)]
    job.lines("a.jsonl", *bad, *({"content": ""} for _ in range(30)), {"content": "Good."})
    first, second = job.run(), job.run()
    assert (first.read, second.read) == (1, 0)
    assert first.refused == second.refused == {Reason.NO_CONTENT: 2000, Reason.EMPTY: 30}


def test_a_text_that_went_back_after_a_kill_is_sent_again(job: Job) -> None:
    job.lines("a.json", {"content": "A."})
    job.run()
    job.found_in_topic("a.json", {"content": "B."}, 100, str(job.root / "a.json"))
    # The file is as it was in the first run, in size and time.
    assert job.run().sent == ["a.json"]
    assert job.run().sent == []


def test_what_a_killed_run_has_sent_is_claimed_by_one_file_only(job: Job) -> None:
    source = str(job.root / "a.jsonl")
    job.found_in_topic("a.jsonl", {"id": "x", "content": "X."}, 5, source)
    for name in ("a.jsonl", "b.jsonl"):
        job.lines(name, {"id": "x", "content": "X."})
    assert job.run().sent == []
    with closing(Ledger.open(job.path, IDENTITY)) as ledger:
        versions = sorted(str(each.version) for each in ledger.places(["x"])["x"])
    assert versions == ["5", "None"]


def test_what_a_killed_run_has_sent_is_deleted_if_its_file_has_vanished_since(job: Job) -> None:
    job.lines("old.json", {"content": "Old."})
    job.lines("kept.jsonl", {"id": "kept", "content": "Kept."})
    job.run()
    for name, content in (("new.json", "New."), ("old.json", "Newer.")):
        job.found_in_topic(name, {"content": content}, 100, str(job.root / name))
    job.found_in_topic("kept.jsonl", {"id": "line", "content": "A line."}, 101, str(job.root / "kept.jsonl"))
    job.found_in_topic("far.json", {"content": "Of another root."}, 102, "/elsewhere/far.json")
    (job.root / "old.json").unlink()
    found = job.run(prune=True)
    assert sorted(found.deleted) == ["line", "new.json", "old.json"]
    assert found.kept == [1]


def test_a_file_that_comes_back_after_a_prune_that_was_killed_is_sent_again(job: Job) -> None:
    for name, content in (("a.json", "A."), ("b.json", "B."), ("c.json", "A.")):
        job.lines(name, {"content": content})
    assert job.run().sent == ["a.json", "b.json"]
    for name in ("a.json", "b.json", "c.json"):
        (job.root / name).rename(job.root.parent / name)
    assert job.run(prune=True).deleted == ["a.json", "b.json"]
    for name in ("b.json", "c.json"):
        (job.root.parent / name).rename(job.root / name)
    assert job.run().sent == ["b.json", "c.json"]


def test_what_a_file_with_bad_lines_lacks_is_kept_and_told(job: Job) -> None:
    lines: list[dict[str, object]] = [{"id": str(n), "content": f"Text {n}."} for n in range(3)]
    job.lines("a.jsonl", *lines)
    job.run()
    job.lines("a.jsonl", lines[0], lines[1], {"id": "2"})
    found = job.run(prune=True)
    assert (found.deleted, found.kept) == ([], [1])
    job.lines("a.jsonl", lines[0], lines[1])
    assert job.run(prune=True).deleted == ["2"]
