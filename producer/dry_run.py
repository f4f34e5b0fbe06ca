r"""What a run would send, and what it would refuse, without connecting to anything.

report = dry_run(["corpus"], settings, progress=True)
print(*report.lines(), sep="\n")
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstream.settings import Settings
from embedstream.size_text import size_text
from producer.corpus import open_corpus
from producer.documents import MAX_METADATA_BYTES, ReadDocument, check
from producer.progress import Progress
from producer.refusals import Reason, Refusal, RefusedError, Tally, refusal_lines, refusals_json
from producer.segments import cut
from producer.source import ReadingRules
from producer.sources import kind_of, read
from producer.walk import FoundFile

__all__ = ["BYTES_PER_TOKEN", "DryRun", "dry_run"]

BYTES_PER_TOKEN = 4.8
"""UTF-8 bytes for a token of BERT's uncased vocabulary, measured over 133 English documents of 5 MB (prose;
technical text had 3.6); `embedstream estimate` counts instead."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was found.

    Attributes:
        documents: How many would be sent.
        records: In how many records.
        bytes: Their text, in bytes of UTF-8.
        bytes_read: What was taken from the disk; compressed files count as they lie there.
        largest: The text of the largest document, in bytes.
        duplicates: How many of the documents have the text of another.
        tokens_estimated: From `BYTES_PER_TOKEN`.
        kinds: How many documents came from each kind of file.
        seconds: How long it took.
        refused: Documents, files and folders that would not get in.
        noticed: What is no part of the corpus, or would lose some metadata.
    """

    documents: int
    records: int
    bytes: int
    bytes_read: int
    largest: int
    duplicates: int
    kinds: dict[str, int]
    seconds: float
    refused: Tally
    noticed: Tally

    @property
    def tokens_estimated(self) -> int:
        """About how many tokens a BERT-like model makes of it."""
        return round(self.bytes / BYTES_PER_TOKEN)

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes."""
        return {
            "dry_run": True,
            "documents": self.documents,
            "records": self.records,
            "bytes": self.bytes,
            "bytes_read": self.bytes_read,
            "largest": self.largest,
            "duplicates": self.duplicates,
            "tokens_estimated": self.tokens_estimated,
            "kinds": self.kinds,
            "seconds": round(self.seconds, 3),
            "refused": self.refused.counts,
            "refusals": refusals_json(self.refused.examples),
            "notices": self.noticed.counts,
            "noticed": refusals_json(self.noticed.examples),
        }

    def lines(self) -> Iterator[str]:
        """Yield the report for a person to read."""
        yield (
            f"would send {self.documents:,} documents in {self.records:,} records, {size_text(self.bytes)}"
            f" of text (the largest {size_text(self.largest)}), whatever an earlier run has sent"
        )
        if self.duplicates:
            told = "repeat the text of another, and are left out unless --duplicates keep says otherwise"
            yield f"{self.duplicates:,} of them {told}"
        yield f"about {self.tokens_estimated:,} tokens, at {BYTES_PER_TOKEN} bytes of English a token"
        if self.kinds:
            yield "from " + ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        yield from refusal_lines("refused", self.refused.counts, self.refused.examples)
        yield from refusal_lines("notice", self.noticed.counts, self.noticed.examples)


def dry_run(paths: Sequence[str | Path], settings: Settings, *, progress: bool) -> DryRun:
    """Read and check everything that `produce` would send.

    Args:
        paths: As for `produce`.
        settings: `producer` is used.
        progress: Whether to show how far it is, on stderr.

    Raises:
        UsageError: A path does not exist or is of no known kind.
        ConfigError: What reading a path needs is not installed or not set.
        ServiceUnavailableError: S3 does not answer.
    """
    started = time.monotonic()
    rules = settings.producer
    corpus = open_corpus(paths, rules)
    refused, noticed = Tally(), Tally()
    documents = records = text_bytes = largest = 0
    kinds: Counter[str] = Counter()
    hashes = array("Q")  # 8 bytes for each of millions

    def on_refusal(refusal: Refusal) -> None:
        (noticed if refusal.reason.is_notice else refused).add(refusal)

    def sizes() -> Iterator[int]:
        for batch in corpus.batches(lambda _: None):
            yield sum(file.size for file in batch.files)

    with Progress(shown=progress, measure=sizes) as shown:
        for batch in corpus.batches(on_refusal):
            for file in batch.files:
                for document in _documents(file, corpus.rules, shown.read, on_refusal):
                    shown.document()
                    documents += 1
                    records += len(cut(document.content, rules.segment_bytes))
                    text_bytes += document.content_bytes
                    largest = max(largest, document.content_bytes)
                    hashes.append(int(document.content_hash[:16], 16))
                    kinds[kind_of(file.path)] += 1
    seconds = time.monotonic() - started
    counts = dict(kinds.most_common())
    return DryRun(
        documents=documents,
        records=records,
        bytes=text_bytes,
        bytes_read=shown.bytes_read,
        largest=largest,
        duplicates=documents - len(np.unique(np.array(hashes, np.uint64))),
        kinds=counts,
        seconds=seconds,
        refused=refused,
        noticed=noticed,
    )


def _documents(
    file: FoundFile,
    rules: ReadingRules,
    on_bytes: Callable[[int], None],
    on_refusal: Callable[[Refusal], None],
) -> Iterator[ReadDocument]:
    for raw in read(file, on_bytes, rules):
        if isinstance(raw, Refusal):
            on_refusal(raw)
            continue
        try:
            document = check(raw, rules.settings.id_field, rules.settings.metadata_field)
        except RefusedError as error:
            on_refusal(error.at(raw.where))
            continue
        if document.left_out:
            told = f"over {MAX_METADATA_BYTES} bytes of metadata"
            on_refusal(Refusal(Reason.METADATA_CUT, raw.where, told))
        yield document
