"""What a run did, for a person and for a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from embedstream.errors import EmbedstreamError
from embedstream.size_text import size_text
from producer.refusals import Refusal, refusal_lines, refusals_json

__all__ = ["Summary"]


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
        unchanged_files: How many files were not read, since all they hold was dealt with before.
        unchanged: How many documents of the files that were read did not change.
        duplicates: How many were left out because the topic has the same text under another id.
        deleted: How many deletions the broker has acknowledged.
        ledger: Path of the ledger, None without one.
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
    unchanged_files: int = 0
    unchanged: int = 0
    duplicates: int = 0
    deleted: int = 0
    ledger: str | None = None
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
            "unchanged_files": self.unchanged_files,
            "unchanged": self.unchanged,
            "duplicates": self.duplicates,
            "deleted": self.deleted,
            "ledger": self.ledger,
            "interrupted_by": self.interrupted_by,
            "failure": str(self.failure) if self.failure else None,
        }

    def lines(self) -> Iterator[str]:
        """Yield the summary for a person to read."""
        rate = self.bytes_read / 1e6 / self.seconds if self.seconds else 0.0
        yield (
            f"{self.documents:,} documents in {self.records:,} records, {size_text(self.bytes)} of text,"
            f" in {self.seconds:,.1f} s ({rate:,.1f} MB/s)"
        )
        for count, told in (
            (self.unchanged_files, "files unchanged, not read again"),
            (self.unchanged, "documents unchanged in files that were read"),
            (self.duplicates, "exact duplicates left out"),
            (self.deleted, "documents deleted that have vanished from the corpus"),
        ):
            if count:
                yield f"{count:,} {told}"
        yield from refusal_lines("refused", self.refused, self.refusals)
        yield from refusal_lines("notice", self.notices, self.noticed)
        if self.interrupted_by is not None:
            yield "stopped by a signal; all that is counted above has arrived"
