"""Ledgers of every version that was ever released stay readable."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from producer.ledger_schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    NewerLedgerError,
    NotALedgerError,
    prepare_schema,
)

# As a ledger's first version wrote it: never to be changed.
FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE folders (
    id INTEGER PRIMARY KEY, root TEXT NOT NULL, folder TEXT NOT NULL, UNIQUE (root, folder));
CREATE TABLE files (
    id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, rules INTEGER NOT NULL, run INTEGER NOT NULL, refusals TEXT,
    UNIQUE (folder, name));
CREATE TABLE documents (
    id TEXT NOT NULL, file INTEGER NOT NULL, content_hash BLOB NOT NULL, metadata_hash BLOB NOT NULL,
    version INTEGER, run INTEGER NOT NULL, source TEXT, PRIMARY KEY (id, file));
CREATE INDEX documents_sent ON documents (substr(content_hash, 1, 8)) WHERE version IS NOT NULL;
CREATE INDEX documents_elsewhere ON documents (id) WHERE version IS NULL;
INSERT INTO meta VALUES ('run', '3'), ('highest_version', '1700000000000');
INSERT INTO offsets VALUES (0, 17);
INSERT INTO folders VALUES (1, '/corpus', 'a/');
INSERT INTO files VALUES (1, 1, 'one.json', 120, 1700000000000000000, 7, 3, NULL);
INSERT INTO documents VALUES ('one', 1, x'00112233445566778899', x'01', 1700000000000, 3, NULL);
PRAGMA application_id = 1163086919;
PRAGMA user_version = 1;
"""


def open_ledger(path: Path, script: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(script)
    return connection


def columns(connection: sqlite3.Connection) -> dict[str, list[tuple[str, str]]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    found = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for (name,) in tables}
    return {name: [(row[1], row[2]) for row in rows] for name, rows in found.items()}


def test_a_ledger_of_the_first_release_becomes_one_of_today_and_keeps_what_it_knows(tmp_path: Path) -> None:
    old = open_ledger(tmp_path / "old", FIRST)
    prepare_schema(old)
    new = open_ledger(tmp_path / "new", "")
    prepare_schema(new)
    assert columns(old) == columns(new)
    for connection in (old, new):
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert old.execute("SELECT next FROM offsets WHERE partition = 0").fetchone() == (17,)
    assert old.execute("SELECT version, run FROM documents WHERE id = 'one'").fetchone() == (1700000000000, 3)


def test_a_ledger_of_a_later_release_is_refused(tmp_path: Path) -> None:
    later = open_ledger(tmp_path / "later", f"{FIRST} PRAGMA user_version = {SCHEMA_VERSION + 1};")
    with pytest.raises(NewerLedgerError):
        prepare_schema(later)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    other = open_ledger(tmp_path / "other", "CREATE TABLE things (name TEXT)")
    with pytest.raises(NotALedgerError):
        prepare_schema(other)
