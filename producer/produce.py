r"""One run: everything under the paths goes into the documents topic.

    summary = produce(["corpus"], settings, progress=True)
    print(*summary.lines(), sep="\n")

Files are found, read and sent one after the other; one thread beside measures the corpus for the time left.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from embedstream.errors import EmbedstreamError
from embedstream.settings import ProducerSettings, Settings
from producer.corpus import Corpus, open_corpus
from producer.documents import MAX_METADATA_BYTES, RawDocument, check
from producer.progress import Progress
from producer.rate import RateLimit
from producer.refusals import Reason, Refusal, RefusedError, Tally, refusal_lines, refusals_json
from producer.sender import Sender
from producer.sources import read

__all__ = ["Summary", "produce"]

_MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did.

    Attributes:
        documents: How many the broker has acknowledged, with all their records.
        records: How many records it has acknowledged; a large document is several.
        bytes: The text of those documents, in bytes of UTF-8.
        bytes_read: What was taken from the disk; compressed files count as they lie there.
        seconds: How long the run took.
        refused: How many documents, files and folders did not get in, by reason.
        refusals: The first few of each reason.
        notices: How many files were passed over as no part of the corpus, and how many documents were sent
            without their largest metadata, by reason.
        noticed: The first few of each reason.
        interrupted_by: The signal that ended the run early, None if none did.
        failure: What ended the run early, None if nothing did.
    """

    documents: int
    records: int
    bytes: int
    bytes_read: int
    seconds: float
    refused: dict[str, int]
    refusals: tuple[Refusal, ...]
    notices: dict[str, int]
    noticed: tuple[Refusal, ...]
    interrupted_by: int | None = None
    failure: EmbedstreamError | None = None

    def to_json(self) -> dict[str, object]:
        """Return the summary as what `json.dumps` takes."""
        return {
            "documents": self.documents,
            "records": self.records,
            "bytes": self.bytes,
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
            "refused": self.refused,
            "refusals": refusals_json(self.refusals),
            "notices": self.notices,
            "noticed": refusals_json(self.noticed),
            "interrupted_by": self.interrupted_by,
            "failure": str(self.failure) if self.failure else None,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary for a person to read."""
        rate = self.bytes_read / 1e6 / self.seconds if self.seconds else 0.0
        yield (
            f"{self.documents:,} documents in {self.records:,} records, {self.bytes / 1e6:,.1f} MB of text,"
            f" in {self.seconds:,.1f} s ({rate:,.1f} MB/s)"
        )
        yield from refusal_lines("refused", self.refused, self.refusals)
        yield from refusal_lines("notice", self.notices, self.noticed)
        if self.interrupted_by is not None:
            yield "stopped by a signal; all that is counted above has arrived"


def produce(paths: Sequence[str | Path], settings: Settings, *, progress: bool) -> Summary:
    """Send every document under the paths to the documents topic, once each.

    A document that can't be sent is refused, counted, and the rest goes on. On SIGINT or SIGTERM what was
    accepted is still delivered; the second signal acts as if this function had no handler.

    Args:
        paths: Files and folders. The id of a document that names none is its path below the one given here.
        settings: `kafka` and `producer` are used.
        progress: Whether to show how far it is, on stderr.

    Raises:
        UsageError: A path does not exist or is of no known kind.
        ServiceUnavailableError: No broker answers at the start; later, the summary says so.
        ConfigError: The topic does not exist, or a setting is wrong.
    """
    started = time.monotonic()
    corpus = open_corpus(paths, settings.producer)
    refused, noticed = Tally(), Tally()

    def on_refusal(refusal: Refusal) -> None:
        (noticed if refusal.reason.is_notice else refused).add(refusal)

    sender = Sender(settings, on_refusal)
    limit = RateLimit(settings.producer.rate)
    with _stop_on_signals() as stop, Progress(shown=progress, measure=lambda: _sizes(corpus)) as shown:
        with contextlib.closing(_items(corpus, on_refusal, shown)) as items:
            for item in items:
                if isinstance(item, Refusal):
                    on_refusal(item)
                else:
                    _send(item, sender, settings.producer, on_refusal)
                    limit.wait(sender.queued_bytes, lambda: stop.signal is not None)
                    shown.document()
                if stop.signal is not None or sender.failure is not None:
                    break
        while not sender.flush(0.25):
            shown.show()
    return Summary(
        documents=sender.documents,
        records=sender.records,
        bytes=sender.content_bytes,
        bytes_read=shown.bytes_read,
        seconds=time.monotonic() - started,
        refused=refused.counts,
        refusals=tuple(refused.examples),
        notices=noticed.counts,
        noticed=tuple(noticed.examples),
        interrupted_by=stop.signal,
        failure=sender.failure,
    )


def _items(
    corpus: Corpus, on_refusal: Callable[[Refusal], None], shown: Progress
) -> Generator[RawDocument | Refusal, None, None]:
    for batch in corpus.batches(on_refusal):
        for file in batch.files:
            yield from read(file, shown.read, corpus.rules)


def _send(
    raw: RawDocument, sender: Sender, settings: ProducerSettings, on_refusal: Callable[[Refusal], None]
) -> None:
    try:
        document = check(raw, settings.id_field, settings.metadata_field)
        sender.send(document, raw.where)
    except RefusedError as error:
        on_refusal(error.at(raw.where))
        return
    if document.left_out:
        told = f"over {MAX_METADATA_BYTES} bytes of metadata; left out: {', '.join(document.left_out)}"
        on_refusal(RefusedError(Reason.METADATA_CUT, told[:_MAX_MESSAGE_CHARS]).at(raw.where))


def _sizes(corpus: Corpus) -> Iterator[int]:
    for batch in corpus.batches(lambda _: None):
        yield sum(file.size for file in batch.files)


@dataclass(slots=True)
class _Stop:
    """The signal that came, None until one does."""

    signal: int | None = None


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Note the first SIGINT or SIGTERM instead of ending; after it, both are as they were before."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets the main thread alone have handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        stop.signal = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
