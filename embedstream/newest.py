"""What readers of the embeddings topic keep: of each document the passages of its newest version. Pure.

    newest = NewestVersions()
    newest.add_passage(embedding)
    newest.add_deletion("another document", version=3, offset=17)
    list(newest.passages())

A version counts as soon as each of its segments is complete or a dead letter; until then the one before it
stays, and so it does when all of the newer one are dead letters. A newer deletion drops the document. The
order in which records are added does not matter: `document_version` decides, and between equal ones the
source offset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.records import Embedding, SourcePosition

__all__ = ["NewestVersions"]


@dataclass(slots=True)
class _Record:
    """The passages that came of one input record, by index."""

    count: int
    passages: dict[int, Embedding] = field(default_factory=dict)


@dataclass(slots=True)
class _Version:
    """One version of a document: the input records of each segment by offset, and its dead letters."""

    segment_count: int = 0
    segments: dict[int, dict[int, _Record]] = field(default_factory=lambda: defaultdict(dict))
    dead: set[SourcePosition] = field(default_factory=set)

    def complete_records(self) -> list[tuple[int, _Record]]:
        """The newest complete record of each segment, with its offset, in the order of the segments."""
        found = []
        for _, records in sorted(self.segments.items()):
            offsets = [offset for offset, record in records.items() if len(record.passages) == record.count]
            if offsets:
                found.append((max(offsets), records[max(offsets)]))
        return found


class NewestVersions:
    """Collects records of one model, in any order, and yields the passages that count."""

    def __init__(self) -> None:
        self._documents: dict[str, dict[int, _Version]] = defaultdict(lambda: defaultdict(_Version))
        self._deletions: dict[str, tuple[int, int]] = {}

    def add_passage(self, embedding: Embedding) -> None:
        """Add an embedding; one of the same record and passage replaces it."""
        version = self._documents[embedding.document_id][embedding.document_version]
        version.segment_count = embedding.segment.count
        records = version.segments[embedding.segment.index]
        record = records.setdefault(embedding.source.offset, _Record(embedding.passage.count))
        record.passages[embedding.passage.index] = embedding

    def add_dead_letter(self, document_id: str, version: int, source: SourcePosition) -> None:
        """Add that a record of a document's version is a dead letter."""
        self._documents[document_id][version].dead.add(source)

    def add_deletion(self, document_id: str, version: int, offset: int) -> None:
        """Add that the document was deleted, by the input record at `offset`."""
        self._deletions[document_id] = max((version, offset), self._deletions.get(document_id, (-1, -1)))

    def passages(self) -> Iterator[Embedding]:
        """Yield the passages that count, document by document in the order of their ids and text."""
        for document_id, versions in sorted(self._documents.items()):
            for number, version in sorted(versions.items(), reverse=True):
                records = version.complete_records()
                if not records or len(records) + len(version.dead) < version.segment_count:
                    continue
                newest = (number, max(offset for offset, _ in records))
                if newest > self._deletions.get(document_id, (-1, -1)):
                    for _, record in records:
                        yield from (passage for _, passage in sorted(record.passages.items()))
                break
