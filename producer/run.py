"""The run itself: from the files that a walk finds to a ledger that knows what became of each document.

One thread does it all, the Kafka client's own and the reader processes aside.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterator

from embedstream.errors import EmbedstreamError, FindingError
from embedstream.metrics import Metrics
from embedstream.rate import RateLimit
from embedstream.settings import Settings
from producer.changes import Changes
from producer.corpus import Corpus, root_name
from producer.documents import PreparedDocument
from producer.everything import Everything
from producer.ledger import Ledger
from producer.open_ledger import Topic
from producer.progress import Progress
from producer.prune import Vanished, orphans
from producer.readers import default_readers, read_all
from producer.reading import Chunk, FileToRead, Task
from producer.refusals import Reason, Refusal, RefusedError, Tally, printable
from producer.sender import Deletion, Sender
from producer.signals import Stop
from producer.source import ReadingRules
from producer.summary import Summary

__all__ = ["Run"]

# Rows of the ledger that are written at once.
_COMMIT_ROWS = 4000
# And how long they wait at most: what a kill leaves unwritten is read from the topic.
_COMMIT_SECONDS = 2.0
# A chunk takes long at a low rate: how old the metrics may be.
_COUNT_SECONDS = 0.5
# What one reader gets at a time. The list of its files has to fit into a pipe (64 KiB): the sender would wait
# for the reader otherwise, while that waits for the sender.
_TASK_BYTES = 1024 * 1024
_TASK_FILES = 200
_TASK_PATH_BYTES = 32 * 1024
# Reasons for which a part of the corpus was not seen, or not to its end.
_UNSEEN = frozenset(
    {
        *(Reason.UNREADABLE, Reason.VANISHED, Reason.CHANGED, Reason.EXTRA_MISSING),
        *(Reason.TRUNCATED, Reason.CORRUPT, Reason.EXPANDS_TOO_MUCH),
    }
)
# Above this share of the documents, deletions have to be asked for by --force.
_PRUNED_UNASKED = 0.05


class Run:
    """One run over a corpus. Told by the sender what has arrived."""

    def __init__(
        self,
        corpus: Corpus,
        settings: Settings,
        topic: Topic,
        ledger: Ledger | None,
        stop: Stop,
        shown: Progress,
        metrics: Metrics,
    ) -> None:
        """Prepare it; `go` does it.

        Args:
            corpus: What to read.
            settings: `kafka` and `producer` are used.
            topic: Where the documents go.
            ledger: Up to date; None to send everything.
            stop: Ends the run early.
            shown: Told how far the run is.
            metrics: Told the same.
        """
        self._settings = settings.producer
        self._ledger = ledger
        self._stop = stop
        self._shown = shown
        self._metrics = metrics
        self._counted: Counter[str] = Counter()
        self._count_due = 0.0
        self._corpus = corpus
        self._limit = RateLimit(settings.producer.rate)
        self._refused, self._noticed = Tally(), Tally()
        self._is_whole = True
        # What is refused then was told before.
        self._reads_again = False
        self._failure: EmbedstreamError | None = None
        self._sender = Sender(settings, topic.admin, self)
        self._changes = Everything()
        self._vanished: Vanished | None = None
        self._commit_due = time.monotonic() + _COMMIT_SECONDS
        if ledger is not None:
            self._changes = Changes(
                ledger,
                _digest(corpus.rules),
                skip_duplicates=settings.producer.duplicates == "skip",
                rehash=settings.producer.rehash,
            )
            if settings.producer.prune:
                self._vanished = Vanished(ledger, [root_name(path) for path in corpus.paths])

    def go(self) -> None:
        """Send what has to be sent, and wait until it has arrived; `summary` tells what became of it."""
        try:
            if self._goes_on():
                self._send_all(_tasks(self._unread()))
                self._settle()
                self._prune()
                self._send_orphans()
                if self._ledger is not None and self._sender.failure is None:
                    self._ledger.end_run()
        except EmbedstreamError as error:
            self._failure = error
            # What can't be written down any more may arrive all the same, and is found there.
            self._deliver()

    def summary(self, seconds: float) -> Summary:
        """Return what the run did, and that it took so long."""
        sender, changes = self._sender, self._changes
        return Summary(
            documents=sender.documents,
            records=sender.records - sender.deletions,
            bytes=sender.content_bytes,
            bytes_read=self._shown.bytes_read,
            seconds=seconds,
            refused=self._refused.counts,
            refusals=tuple(self._refused.examples),
            notices=self._noticed.counts,
            noticed=tuple(self._noticed.examples),
            unchanged_files=changes.unchanged_files,
            unchanged=changes.unchanged,
            duplicates=changes.duplicates,
            deleted=sender.deletions,
            ledger=None if self._ledger is None else str(self._ledger.path),
            interrupted_by=self._stop.signal,
            failure=self._failure or sender.failure,
        )

    def arrived(self, item: PreparedDocument | Deletion, version: int) -> None:
        """Take note that all records of it are acknowledged."""
        if isinstance(item, Deletion):
            self._changes.gone(item, version)
        else:
            self._changes.arrived(item, version)

    def not_arrived(self, item: PreparedDocument | Deletion, refusal: Refusal) -> None:
        """Take note that the broker refused it."""
        self._refuse(refusal)
        if not isinstance(item, Deletion):
            self._changes.refused(item.file, refusal, item)

    def _goes_on(self) -> bool:
        return self._stop.signal is None and self._sender.failure is None

    def _refuse(self, refusal: Refusal, count: int = 1) -> None:
        (self._noticed if refusal.reason.is_notice else self._refused).add(refusal, count)
        # What can't be read today may hold what seems to have vanished from elsewhere.
        self._is_whole = self._is_whole and refusal.reason not in _UNSEEN

    def _unread(self) -> Iterator[FileToRead]:
        """Walk the corpus, and yield the files that have to be read."""
        for batch in self._corpus.batches(self._refuse):
            unread, numbers, refusals = self._changes.unread(batch, root_name(batch.root))
            if self._vanished is not None:
                self._vanished.saw(numbers)
            for refusal, count in refusals:
                self._refuse(refusal, count)
            self._shown.skipped(self._changes.unchanged_bytes)
            if time.monotonic() > self._count_due:
                self._count()
            yield from unread
            if not self._goes_on():
                return

    def _send_all(self, tasks: Iterator[Task]) -> None:
        processes = default_readers() if self._settings.readers is None else self._settings.readers
        for chunk in read_all(tasks, self._corpus.rules, processes):
            self._take(chunk)
            now = time.monotonic()
            if len(self._changes) >= _COMMIT_ROWS or now > self._commit_due:
                self._changes.commit(self._sender.offsets)
                self._commit_due = now + _COMMIT_SECONDS
            if not self._goes_on():
                return

    def _take(self, chunk: Chunk) -> None:
        """Send what has to be sent of a chunk."""
        changes, sender, is_limited = self._changes, self._sender, self._settings.rate is not None
        for file, refusal in chunk.refusals:
            if not self._reads_again:
                self._refuse(refusal)
            changes.refused(file, refusal)
        last, path = -1, ""
        for document, above, replaces in changes.choose(chunk.documents):
            if document.file != last:
                last, path = document.file, printable(changes.path(document.file))
            where = path if document.line is None else f"{path}:{document.line}"
            if replaces:
                told = f"it replaces another document of the corpus that has its id, {document.id[:200]}"
                repeated = RefusedError(Reason.REPEATED_ID, told).at(where)
                if not self._reads_again:
                    self._refuse(repeated)
                changes.refused(document.file, repeated)
            try:
                changes.sent(document, sender.send(document, where, above))
                if is_limited:
                    self._limit.wait(sender.queued_bytes, lambda: not self._goes_on())
                if time.monotonic() > self._count_due:
                    self._count()
            except RefusedError as error:
                refusal = error.at(where)
                self._refuse(refusal)
                changes.refused(document.file, refusal, document)
        for file in chunk.ended:
            changes.ended(file)
        sender.serve()
        self._shown.document(len(chunk.documents))
        self._shown.read(chunk.bytes_read)
        self._count()

    def _deliver(self) -> None:
        while not self._sender.flush(0.25):
            self._shown.show()
            self._count()
        self._count()

    def _count(self) -> None:
        """Bring the metrics up to date."""
        self._count_due = time.monotonic() + _COUNT_SECONDS
        sender, changes = self._sender, self._changes
        documents = {
            "sent": sender.documents,
            "deleted": sender.deletions,
            "unchanged": changes.unchanged,
            "duplicate": changes.duplicates,
            "refused": self._refused.total,
        }
        read = {"read": self._shown.bytes_read, "unchanged": changes.unchanged_bytes}
        for counter, now in (
            (self._metrics.documents_total, documents),
            (self._metrics.corpus_bytes_total, read),
            (self._metrics.refused_documents_total, self._refused.counts),
        ):
            for result, count in now.items():
                child = counter.labels(result)
                child.inc(count - self._counted[f"{counter} {result}"])
                self._counted[f"{counter} {result}"] = count
        self._metrics.produced_records_total.inc(sender.records - self._counted["records"])
        self._counted["records"] = sender.records
        total = self._shown.total
        self._metrics.corpus_size_bytes.set(math.nan if total is None else total)

    def _settle(self) -> None:
        """Wait until everything has arrived, and write it down."""
        self._deliver()
        self._changes.commit(self._sender.offsets)

    def _prune(self) -> None:
        """Delete the documents that have vanished from the corpus."""
        if self._vanished is None or not self._goes_on():
            return
        if not self._is_whole:
            told = "nothing was pruned: not all of the corpus could be read"
            self._failure = FindingError(told, "mend what is refused above")
            return
        vanished, total = self._vanished.find()
        for count, why in self._vanished.kept():
            where = ", ".join(map(printable, self._corpus.paths))
            self._refuse(Refusal(Reason.NOT_PRUNED, where, f"{count:,} {why}"), count)
        if vanished > total * _PRUNED_UNASKED and not self._settings.force:
            told = f"nothing was pruned: {vanished:,} of {total:,} documents have vanished"
            self._failure = FindingError(
                f"{told}, more than {_PRUNED_UNASKED:.0%}", "if that is right, add --force"
            )
            return
        for deletion in self._vanished.deletions():
            try:
                self._sender.delete(deletion)
            except RefusedError:
                break  # the sender's failure says why
            if len(self._changes) >= _COMMIT_ROWS:
                self._changes.commit(self._sender.offsets)
            if not self._goes_on():
                break
        self._settle()
        if self._goes_on():
            self._vanished.forget_files()

    def _send_orphans(self) -> None:
        """Send documents that were left out for the sake of others which the topic has no more."""
        if self._ledger is None or not isinstance(self._changes, Changes) or not self._goes_on():
            return
        if wanted := orphans(self._ledger):
            self._reads_again = True
            self._send_all(_tasks(self._again(self._changes, wanted)))
            self._settle()

    def _again(self, changes: Changes, wanted: set[int]) -> Iterator[FileToRead]:
        for batch in self._corpus.batches(lambda _: None):
            yield from changes.again(batch, root_name(batch.root), wanted)
            if not self._goes_on():
                return


def _tasks(files: Iterator[FileToRead]) -> Iterator[Task]:
    """Put files together so that a task is neither tiny nor large."""
    task: Task = []
    size = piped = 0
    for file in files:
        task.append(file)
        size += file.found.size
        piped += sum(map(_piped, (file.found.path, file.found.relative, file.found.sidecar)))
        if size >= _TASK_BYTES or len(task) >= _TASK_FILES or piped >= _TASK_PATH_BYTES:
            yield task
            task = []
            size = piped = 0
    if task:
        yield task


def _piped(text: str) -> int:
    """Return how many bytes a text takes in a pipe, at most."""
    return len(text) * (1 if text.isascii() else 4)


def _digest(rules: ReadingRules) -> int:
    """Return a number that changes when a file may make other documents, or others of them may be sent."""
    settings = rules.settings
    decisive = (
        settings.content_field,
        settings.id_field,
        settings.metadata_field,
        settings.duplicates,
        rules.selection,
    )
    return int.from_bytes(hashlib.sha256(repr(decisive).encode()).digest()[:7], "big")
