"""What readers of the embeddings topic keep: of each document the passages of its newest version.

    with NewestVersions() as newest:
        newest.add_passage(Passage("a document", version=1, source=(0, 17)))
        newest.add_deletion("another document", version=3, offset=17)
        newest.choose()
        newest.is_chosen((0, 17))

A version counts as soon as each of its segments is complete or a dead letter; until then the one before it
stays, and so it does when all of the newer one are dead letters. A newer deletion drops the document. The
order in which records are added does not matter: `document_version` decides, and between equal ones the
source offset.

Everything lies in an SQLite file: memory does not grow with the topic, and a long read goes on where it was
when its process died. One million documents of one record each take 90 MB of that file.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

__all__ = ["Choice", "NewestVersions", "Passage"]

Position = tuple[int, int]
"""A partition and an offset."""

# Input records that are held in memory until they are written to the file together.
_HELD_RECORDS = 20_000
_CACHE_KIB = 64 * 1024
_DIGEST_BYTES = 16

_TABLES = """
CREATE TABLE IF NOT EXISTS records(
    partition INT, offset INT, document BLOB, version INT, segment INT, segments INT, count INT,
    seen BLOB, -- which passages have come, one bit each; NULL once all have
    PRIMARY KEY(partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead(
    document BLOB, version INT, segment INT, partition INT, offset INT,
    PRIMARY KEY(document, version, partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deletions(
    document BLOB PRIMARY KEY, version INT, offset INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats(partition INT, offset INT, PRIMARY KEY(partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chosen(partition INT, offset INT, PRIMARY KEY(partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers(name TEXT PRIMARY KEY, value INT) WITHOUT ROWID;
"""
_INDEX = """
CREATE INDEX IF NOT EXISTS by_document
ON records(document, version DESC, segment, offset DESC, partition, segments, count, seen IS NULL)
"""
_BY_DOCUMENT = """
SELECT document, version, segment, offset, partition, segments, count, seen IS NULL
FROM records ORDER BY document, version DESC, segment, offset DESC
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """What the choice needs to know of an embedding record.

    Attributes:
        source: Partition and offset of the input record.
        segment: Number of that record's segment in its document, and how many the document has.
        passage: Number of the passage in that record, and how many the record has.
    """

    document_id: str
    version: int
    source: Position
    segment: tuple[int, int] = (0, 1)
    passage: tuple[int, int] = (0, 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what was not.

    Attributes:
        documents: Documents of which a version was chosen.
        passages: Their passages.
        deleted: Documents left out because they were deleted.
        behind: Those of `documents` of which an older version was chosen, because the newest is not all
            there yet or is nothing but dead letters.
        absent: Documents left out because no version of them is all there.
    """

    documents: int
    passages: int
    deleted: int
    behind: int
    absent: int


@dataclass(slots=True)
class _Held:
    """A row of `records`; `seen` has one bit for each passage that has come."""

    document: bytes
    version: int
    segment: int
    segments: int
    count: int
    seen: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of `_BY_DOCUMENT`."""

    document: bytes
    version: int
    segment: int
    offset: int
    partition: int
    segments: int
    count: int
    is_complete: bool


class NewestVersions:
    """Collects records of one model, in any order, and chooses the input records whose passages count."""

    def __init__(self, file: Path | None = None) -> None:
        """Open the file, or make it; None is one that vanishes when it is closed.

        Raises:
            sqlite3.Error: The file can't be written, or another process has it open.
        """
        # The empty name is SQLite's own temporary file, which spills to disk when it outgrows its cache.
        self._db = sqlite3.connect("" if file is None else str(file), timeout=0.0)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # One process at a time, until it closes the file or ends.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
        self._held: dict[Position, _Held] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add_passage(self, passage: Passage) -> bool:
        """Add an embedding; return False where the same passage of the same record was there before."""
        held = self._held.get(passage.source) or self._fetch(passage)
        index, _ = passage.passage
        if index >= held.count or held.seen >> index & 1:
            return False
        held.seen |= 1 << index
        if len(self._held) > _HELD_RECORDS:
            self._write_held()
        return True

    def add_repeat(self, at: Position) -> None:
        """Remember that the output record at a position repeats an earlier one."""
        self._db.execute("INSERT OR IGNORE INTO repeats VALUES (?, ?)", at)

    def add_dead_letter(self, document_id: str, version: int, segment: int | None, source: Position) -> None:
        """Add that a record of a document's version is a dead letter; `segment` None where not known."""
        row = (_digest(document_id), version, segment, *source)
        self._db.execute("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?)", row)

    def add_deletion(self, document_id: str, version: int, offset: int) -> None:
        """Add that the document was deleted, by the input record at `offset`."""
        document = _digest(document_id)
        old = self._db.execute("SELECT version, offset FROM deletions WHERE document = ?", (document,))
        newest = max((version, offset), old.fetchone() or (-1, -1))
        self._db.execute("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", (document, *newest))

    def add_number(self, name: str, more: int) -> None:
        """Add to a number that is kept with the records, such as how many were left out."""
        self.set_number(name, self.number(name) + more)

    def set_number(self, name: str, value: int) -> None:
        """Set a number that is kept with the records, such as how far a partition was read."""
        self._db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))

    def number(self, name: str, default: int = 0) -> int:
        """Return a number that is kept with the records."""
        found = self._db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return default if found is None else int(found[0])

    def save(self) -> None:
        """Write everything added so far and every number to the file, all of it or nothing.

        Raises:
            sqlite3.Error: The file can't be written.
        """
        self._write_held()
        self._db.commit()

    def choose(self) -> Choice:
        """Choose the records that count, of all that were added.

        Raises:
            sqlite3.Error: The file can't be written.
        """
        self.save()
        self._db.execute(_INDEX)
        self._db.execute("DELETE FROM chosen")
        rows = (_Row(*row) for row in self._db.execute(_BY_DOCUMENT))
        documents = passages = behind = absent = deleted = 0
        for document, group in groupby(rows, lambda row: row.document):
            chosen, newest = self._newest(document, group)
            deletion = self._deletion(document)
            if chosen and _stamp(chosen) > deletion:
                documents += 1
                passages += sum(row.count for row in chosen)
                behind += newest > chosen[0].version
                positions = [(row.partition, row.offset) for row in chosen]
                self._db.executemany("INSERT INTO chosen VALUES (?, ?)", positions)
            elif newest > deletion[0]:
                absent += 1
            else:
                deleted += 1
        absent += self._only_dead()
        self._db.commit()
        return Choice(documents, passages, deleted, behind, absent)

    def is_chosen(self, source: Position) -> bool:
        """Whether the passages of an input record count; `choose` has to come first."""
        query = "SELECT 1 FROM chosen WHERE partition = ? AND offset = ?"
        return self._db.execute(query, source).fetchone() is not None

    def repeats(self, partition: int, start: int) -> Iterator[int]:
        """Yield the offsets, from `start` on, of an output partition's records that repeat earlier ones."""
        query = "SELECT offset FROM repeats WHERE partition = ? AND offset >= ? ORDER BY offset"
        for (offset,) in self._db.execute(query, (partition, start)):
            yield offset

    def _newest(self, document: bytes, rows: Iterator[_Row]) -> tuple[list[_Row], int]:
        """Return a document's records of the newest version that is all there, and its newest version.

        Args:
            document: Its digest.
            rows: Its records, those of the newest version first, and the newest record of a segment first.
        """
        query = "SELECT MAX(version) FROM dead WHERE document = ?"
        newest: int = self._db.execute(query, (document,)).fetchone()[0] or 0
        for version, of_version in groupby(rows, lambda row: row.version):
            newest = max(newest, version)
            best: dict[int, _Row] = {}
            segments = 0
            for row in of_version:
                segments = max(segments, row.segments)
                if row.is_complete:
                    best.setdefault(row.segment, row)
            dead, unknown = self._dead(document, version)
            if best and len(dead | best.keys()) + unknown >= segments:
                return list(best.values()), newest
        return [], newest

    def _deletion(self, document: bytes) -> tuple[int, int]:
        """The version and source offset of a document's newest deletion, or less than any."""
        query = "SELECT version, offset FROM deletions WHERE document = ?"
        return self._db.execute(query, (document,)).fetchone() or (-1, -1)

    def _only_dead(self) -> int:
        """How many documents have no passage at all, and a dead letter newer than any deletion."""
        query = """
            SELECT COUNT(DISTINCT dead.document) FROM dead LEFT JOIN deletions USING (document)
            WHERE dead.document NOT IN (SELECT document FROM records)
            AND (dead.version, dead.offset) > (ifnull(deletions.version, -1), ifnull(deletions.offset, -1))
            """
        return int(self._db.execute(query).fetchone()[0])

    def _dead(self, document: bytes, version: int) -> tuple[set[int], int]:
        """The segments of a version that are dead letters, and how many more whose segment is not known."""
        query = "SELECT segment FROM dead WHERE document = ? AND version = ?"
        segments = [segment for (segment,) in self._db.execute(query, (document, version))]
        known = {segment for segment in segments if segment is not None}
        return known, segments.count(None)

    def _fetch(self, passage: Passage) -> _Held:
        """Return the record of a passage, from the file where it was written before, and hold it."""
        query = """
            SELECT document, version, segment, segments, count, seen FROM records
            WHERE partition = ? AND offset = ?
            """
        row = self._db.execute(query, passage.source).fetchone()
        if row is None:
            (segment, segments), (_, count) = passage.segment, passage.passage
            held = _Held(_digest(passage.document_id), passage.version, segment, segments, count, 0)
        else:
            document, version, segment, segments, count, seen = row
            bits = (1 << count) - 1 if seen is None else int.from_bytes(seen, "little")
            held = _Held(document, version, segment, segments, count, bits)
        self._held[passage.source] = held
        return held

    def _write_held(self) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (*source, each.document, each.version, each.segment, each.segments, each.count, _seen(each))
                for source, each in self._held.items()
            ),
        )
        self._held.clear()


def _stamp(rows: list[_Row]) -> tuple[int, int]:
    """What decides between a version, given by its records, and a deletion."""
    return rows[0].version, max(row.offset for row in rows)


def _seen(held: _Held) -> bytes | None:
    if held.seen.bit_count() == held.count:
        return None
    return held.seen.to_bytes((held.seen.bit_length() + 7) // 8, "little")


def _digest(document_id: str) -> bytes:
    """16 bytes for an id: among a billion documents two alike are a matter of one in 10**20."""
    return hashlib.blake2b(document_id.encode(), digest_size=_DIGEST_BYTES).digest()
