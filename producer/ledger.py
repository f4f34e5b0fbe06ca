"""What the broker has acknowledged, in one SQLite file: documents, the files they came from, offsets.

    with Ledger.open(path, identity) as ledger:
        known = ledger.files(ledger.folder("/corpus", "shard_000/"), ["a.json", "b.json"])
        ledger.write(rows)

A run holds the file for itself from start to end. What is written in one transaction is consistent: offsets
never go ahead of the rows of the documents below them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from embedstream.errors import ConfigError, EmbedstreamError, TryAgainError
from producer.ledger_schema import NewerLedgerError, NotALedgerError, prepare_schema

__all__ = ["FROM_TOPIC", "FileRow", "Identity", "KnownFile", "Ledger", "Place", "Rows", "set_aside"]

FROM_TOPIC = 0
"""Stands for the file of a document that was found in the topic."""

_PRAGMAS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    # After a power cut the last commits may be missing, offsets and rows alike: the topic's tail has them.
    "synchronous = NORMAL",
    "wal_autocheckpoint = 4000",
    "cache_size = -32768",
)
_MAX_VARIABLES = 500


@dataclass(frozen=True, slots=True)
class Identity:
    """The topic that a ledger is about.

    Attributes:
        cluster_id: Of the Kafka cluster.
        topic: The topic's name.
        topic_id: What tells it from another topic of this name, made before or after; empty where the broker
            has none.
    """

    cluster_id: str
    topic: str
    topic_id: str


class FileRow(NamedTuple):
    """A file as it was when it was last read; its attributes are the columns of `files`."""

    id: int
    folder: int
    name: str
    size: int
    mtime_ns: int
    rules: int
    run: int
    refusals: str | None


KnownFile = tuple[str, int, int, int, int, str | None]
"""Name, size, modification time and rules that a file was read with, its number, and what was refused."""


class Place(NamedTuple):
    """A document in a file; its attributes are the columns of `documents`."""

    id: str
    file: int
    content_hash: bytes
    metadata_hash: bytes
    version: int | None
    run: int
    source: str | None = None

    def same_as(self, content_hash: bytes, metadata_hash: bytes) -> bool:
        """Whether a document with these hashes is the same."""
        return self.content_hash == content_hash and self.metadata_hash == metadata_hash


@dataclass(slots=True)
class Rows:
    """What is to be written at once.

    Attributes:
        removed: Ids and files of places to forget, before anything is added.
        files: Added, or replacing those of the same id.
        places: Added, or replacing those of the same document and file.
        elsewhere: Ids and files: the document is in the topic from that file, and from no other any more.
        offsets: Of each partition that moved, the offset after the last record.
        highest_version: Of all that was sent, 0 for none.
    """

    removed: list[tuple[str, int]] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    elsewhere: list[tuple[str, int]] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    highest_version: int = 0

    def __len__(self) -> int:
        return len(self.files) + len(self.places) + len(self.elsewhere) + len(self.removed)


class Ledger:
    """An open ledger. Of one thread; a context manager that closes it.

    Attributes:
        path: Of the file.
        connection: For statements of other modules, inside `explained`.
        run: Number of this run, from 1.
        unclean: Whether the run before this one had not ended in order.
        highest_version: The highest version that was ever sent.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self._folders: dict[tuple[str, str], int] = {}
        self.run = int(self._meta("run", "0")) + 1
        self.unclean = self._meta("running", "0") == "1"
        self.highest_version = int(self._meta("highest_version", "0"))
        (last_file,) = connection.execute("SELECT coalesce(max(id), 0) FROM files").fetchone()
        # Places may name a file whose own row was not written before a kill.
        (last_named,) = connection.execute("SELECT coalesce(max(file), 0) FROM documents").fetchone()
        self._last_file: int = max(last_file, last_named)

    @classmethod
    def open(cls, path: Path, identity: Identity) -> Ledger:
        """Open the file, or make it, and lock it.

        Raises:
            ConfigError: It can't be opened, is no ledger or damaged, or is about another cluster or topic.
            TryAgainError: Another run uses it, or the disk is full.
        """
        connection = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=0, isolation_level=None)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            # The lock is taken with the first write and kept to the end.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            prepare_schema(connection)
            ledger = cls(path, connection)
            ledger._belongs_to(identity)
        except (OSError, sqlite3.Error, NotALedgerError, NewerLedgerError) as error:
            if connection is not None:
                connection.close()
            raise _explain(error, path) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file free."""
        # What the close could not write is in the write-ahead log.
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()

    @contextlib.contextmanager
    def explained(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection; SQLite's errors become errors that a person understands."""
        try:
            yield self.connection
        except sqlite3.Error as error:
            raise _explain(error, self.path) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection within a transaction, which ends with the block."""
        with self.explained() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def begin_run(self, offsets: dict[int, int]) -> None:
        """Note that a run has begun to send: until `end_run`, the ledger counts as unclean.

        Args:
            offsets: Where each partition ends now, all before which is accounted for.
        """
        with self.transaction():
            self._set_meta("run", str(self.run))
            self._set_meta("running", "1")
            self._write_offsets(offsets)

    def end_run(self) -> None:
        """Note that everything the run has sent is in the ledger."""
        with self.transaction():
            self._set_meta("running", "0")

    def offsets(self) -> dict[int, int]:
        """Return of each partition the offset before which everything is accounted for."""
        with self.explained() as connection:
            return dict(connection.execute("SELECT partition, next FROM offsets"))

    def folder(self, root: str, folder: str) -> int:
        """Return the number of a folder, a new one for one that is not known yet."""
        if (root, folder) not in self._folders:
            with self.explained() as connection:
                find = "SELECT id FROM folders WHERE root = ? AND folder = ?"
                found = connection.execute(find, (root, folder)).fetchone()
                if found is None:
                    add = "INSERT INTO folders (root, folder) VALUES (?, ?) RETURNING id"
                    found = connection.execute(add, (root, folder)).fetchone()
            # One is remembered: the folders of a corpus come one after the other.
            self._folders = {(root, folder): found[0]}
        number: int = self._folders[root, folder]
        return number

    def new_file(self) -> int:
        """Return a number for a file that has none yet."""
        self._last_file += 1
        return self._last_file

    def files(self, folder: int, names: Sequence[str]) -> Sequence[KnownFile | None]:
        """Return what is known of each of those files of a folder, None for one that has no row."""
        select = "SELECT name, size, mtime_ns, rules, id, refusals FROM files WHERE folder = ?"
        with self.explained() as connection:
            # In one go where little else lies between them, which takes half the time of as many look-ups.
            limit = 2 * len(names)
            between = f"{select} AND name BETWEEN ? AND ? ORDER BY name LIMIT {limit}"
            found: list[KnownFile] = connection.execute(between, (folder, min(names), max(names))).fetchall()
            if [row[0] for row in found] == names:
                return found  # as in most batches of a corpus that is read again
            if len(found) == limit:
                found = []
                for part in _parts(names):
                    marks = ",".join("?" * len(part))
                    found += connection.execute(f"{select} AND name IN ({marks})", (folder, *part))
        known = {row[0]: row for row in found}
        return [known.get(name) for name in names]

    def read_again(self, files: Sequence[int]) -> None:
        """Have files read, though they are as they were: the topic holds something newer."""
        with self.transaction() as connection:
            connection.executemany("UPDATE files SET size = -1 WHERE id = ?", [(file,) for file in files])

    def places(self, ids: Sequence[str]) -> dict[str, list[Place]]:
        """Return the places of those documents that have any, by id."""
        found: dict[str, list[Place]] = {}
        with self.explained() as connection:
            for part in _parts(ids):
                marks = ",".join("?" * len(part))
                query = f"SELECT * FROM documents WHERE id IN ({marks})"  # noqa: S608
                for row in connection.execute(query, part):
                    found.setdefault(row[0], []).append(Place(*row))
        return found

    def sent_contents(self, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """Return for those contents that the topic holds the id of a document that has it."""
        found: dict[bytes, str] = {}
        with self.explained() as connection:
            for part in _parts(hashes):
                marks = ",".join("?" * len(part))
                query = (
                    "SELECT content_hash, id FROM documents"  # noqa: S608
                    f" WHERE version IS NOT NULL AND substr(content_hash, 1, 8) IN ({marks})"
                )
                found.update(connection.execute(query, [each[:8] for each in part]))
        return found

    def write(self, rows: Rows) -> None:
        """Write rows and offsets in one transaction."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM documents WHERE id = ? AND file = ?", rows.removed)
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows.files)
            connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, file) DO UPDATE SET"
                " content_hash = excluded.content_hash, metadata_hash = excluded.metadata_hash,"
                " version = excluded.version, run = excluded.run, source = excluded.source",
                rows.places,
            )
            # Of one id the last: acknowledgements come in the order of the versions.
            connection.executemany(
                "UPDATE documents SET version = NULL WHERE id = ? AND file <> ?", dict(rows.elsewhere).items()
            )
            self._write_offsets(rows.offsets)
            if rows.highest_version > self.highest_version:
                self._set_meta("highest_version", str(rows.highest_version))
        self.highest_version = max(self.highest_version, rows.highest_version)

    def _write_offsets(self, offsets: dict[int, int]) -> None:
        self.connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?)", offsets.items())

    def _belongs_to(self, identity: Identity) -> None:
        """Compare the ledger's identity with the topic's, or take it over if the ledger is new."""
        for name, value in (
            ("cluster_id", identity.cluster_id),
            ("topic", identity.topic),
            ("topic_id", identity.topic_id),
        ):
            known = self._meta(name, "")
            if known and value and known != value:
                told = {"cluster_id": "cluster", "topic": "topic", "topic_id": "topic of the same name, id"}
                raise ConfigError(
                    f"producer.ledger {self.path} is about {told[name]} {known}, not {value}",
                    "name another with --ledger, or let --ledger-from-topic make it anew",
                )
            if not known:
                self._set_meta(name, value)

    def _meta(self, name: str, default: str) -> str:
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def set_aside(path: Path) -> None:
    """Rename a ledger's file, whatever is in it, to end with `.old`, unless a run uses it.

    Raises:
        TryAgainError: A run uses it.
        ConfigError: It can't be renamed.
    """
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise _explain(error, path) from error
        # Damaged, or no database: it may go.
    try:
        for end in ("", "-wal", "-shm"):
            old = path.with_name(f"{path.name}.old{end}")
            # Also where nothing takes its place: a log of an older one would be read into this one.
            old.unlink(missing_ok=True)
            if (part := path.with_name(path.name + end)).exists():
                part.rename(old)
    except OSError as error:
        raise _explain(error, path) from error


def _parts(values: Sequence[str] | Sequence[bytes]) -> Iterable[Sequence[str] | Sequence[bytes]]:
    return (values[start : start + _MAX_VARIABLES] for start in range(0, len(values), _MAX_VARIABLES))


def _explain(error: Exception, path: Path) -> EmbedstreamError:
    """Return the error, with what to do, that a failure of the ledger's file means to a user."""
    if isinstance(error, NotALedgerError):
        return ConfigError(f"producer.ledger {path} is another program's database", "name another file")
    if isinstance(error, NewerLedgerError):
        return ConfigError(
            f"producer.ledger {path} was written by a newer embedstream", "upgrade, or name another file"
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TryAgainError(f"producer.ledger {path} is in use by another run", "wait until that has ended")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return TryAgainError(
            f"producer.ledger {path} can't be written ({error})",
            "make room on its disk and run again: what was sent since is found in the topic",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ConfigError(
            f"producer.ledger {path} is damaged, or no ledger ({error})",
            "let --ledger-from-topic make it anew, or name another with --ledger",
        )
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigError(
        f"producer.ledger {path} can't be opened ({reason})",
        "name a file that can be written with --ledger, or do without: --no-ledger",
    )
