"""The ledger's tables, and how a file of an older version becomes one of this.

A *place* is a document in a file. The topic holds a document from one place at most: the row with a version.
A row without one is a place whose text is in the topic from elsewhere: an exact duplicate under another id,
or the same id in another file.
"""

from __future__ import annotations

import sqlite3

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "NewerLedgerError", "NotALedgerError", "prepare_schema"]

APPLICATION_ID = 0x45534C47
"""`ESLG`: says in the file's header that SQLite's tables in it are a ledger."""

SCHEMA_VERSION = 1
"""The number of `_STEPS`; kept in the file as SQLite's user_version."""

# Each step leads from the version before it to its own number; a released one is never changed.
_STEPS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- Everything before `next` that this ledger's runs have sent to the partition is in the tables below.
    CREATE TABLE offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
    CREATE TABLE folders (
        id INTEGER PRIMARY KEY,
        root TEXT NOT NULL,        -- absolute, or a URI
        folder TEXT NOT NULL,      -- relative to the root, with / at its end
        UNIQUE (root, folder)
    );
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        folder INTEGER NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,     -- -1: not all of it has been dealt with
        mtime_ns INTEGER NOT NULL,
        rules INTEGER NOT NULL,    -- digest of the settings that it was read with
        run INTEGER NOT NULL,      -- in which all its documents were last read, 0 if never
        refusals TEXT,             -- JSON: what of it can't be sent as long as it stays as it is
        UNIQUE (folder, name)
    );
    CREATE TABLE documents (
        id TEXT NOT NULL,
        file INTEGER NOT NULL,     -- 0: found in the topic, the file is not known yet
        content_hash BLOB NOT NULL,
        metadata_hash BLOB NOT NULL,
        version INTEGER,           -- NULL: the topic does not hold it from this place
        run INTEGER NOT NULL,      -- in which it was last read
        source TEXT,               -- of the record, where the file is not known
        PRIMARY KEY (id, file)
    );
    CREATE INDEX documents_sent ON documents (substr(content_hash, 1, 8)) WHERE version IS NOT NULL;
    CREATE INDEX documents_elsewhere ON documents (id) WHERE version IS NULL;
    """,
)


class NotALedgerError(Exception):
    """The file is an SQLite database of something else."""


class NewerLedgerError(Exception):
    """The file was written by a later version of this program."""


def prepare_schema(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, or bring those of an older version up to date.

    Raises:
        NotALedgerError: The file holds other tables.
        NewerLedgerError: Its version is above `SCHEMA_VERSION`.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise NotALedgerError
    if version > SCHEMA_VERSION:
        raise NewerLedgerError
    if version < SCHEMA_VERSION:
        steps = "".join(_STEPS[version:])
        # One transaction: a kill in between leaves the older version.
        connection.executescript(
            f"BEGIN; {steps} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
