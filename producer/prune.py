"""What the ledger knows of and a complete walk did not find any more.

    vanished = Vanished(ledger, roots)
    vanished.saw([1, 2, 3])       # for every batch of files
    vanished.find()               # when all that was read has arrived, and is in the ledger
    for deletion in vanished.deletions(): ...

A document has vanished if its file has, or if the file was read again and does not hold it any more. Where
another place holds the very same document (its file was moved), that takes the vanished one's part, and there
is nothing to send. A document that is known from the topic alone, which no file of the walk has claimed, is
taken for one of the file that its record names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from producer.ledger import FROM_TOPIC, Ledger
from producer.sender import Deletion

__all__ = ["Vanished", "orphans"]

_AT_A_TIME = 1000

_UNCLAIMED = f"""
    SELECT d.id, r.root, substr(d.source, length(r.root) + 2) FROM documents d
    JOIN roots r ON d.source = r.root OR substr(d.source, 1, length(r.root) + 1) = r.root || '/'
    WHERE d.file = {FROM_TOPIC} AND d.version IS NOT NULL
"""  # noqa: S608
# Where the ledger has an older version of it there, when that was read last counts.
_CLAIM = (
    f"""
        UPDATE documents AS d
        SET version = t.version, content_hash = t.content_hash, metadata_hash = t.metadata_hash
        FROM (SELECT * FROM documents WHERE id = :id AND file = {FROM_TOPIC}) t
        WHERE d.id = :id AND d.file = :file
    """,  # noqa: S608
    f"UPDATE OR IGNORE documents SET file = :file WHERE id = :id AND file = {FROM_TOPIC}",  # noqa: S608
    f"DELETE FROM documents WHERE id = :id AND file = {FROM_TOPIC}",  # noqa: S608
)
_FIND = """
    CREATE TEMP TABLE vanished AS
    SELECT d.id, d.file, d.version, d.content_hash, d.metadata_hash
    FROM documents d
    JOIN files f ON f.id = d.file JOIN folders o ON o.id = f.folder JOIN roots r USING (root)
    WHERE d.run < f.run OR NOT EXISTS (SELECT 1 FROM seen s WHERE s.file = d.file);
    CREATE INDEX temp.vanished_by_id ON vanished (id, file);
    -- The same document in a place that is still there.
    CREATE TEMP TABLE moved AS
    SELECT v.id, v.version, min(d.file) AS file
    FROM vanished v JOIN documents d ON d.id = v.id AND d.content_hash = v.content_hash
        AND d.metadata_hash = v.metadata_hash AND d.file <> v.file AND d.version IS NULL
    WHERE v.version IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM vanished w WHERE w.id = d.id AND w.file = d.file)
    GROUP BY v.id, v.version;
"""
_MOVE = (
    # Before anything is gone: a file that comes back, as it was, after a kill in between has to be read.
    "UPDATE files SET size = -1 WHERE id IN (SELECT file FROM vanished)"
    " AND id NOT IN (SELECT file FROM seen)",
    "DELETE FROM documents WHERE version IS NOT NULL AND id IN (SELECT id FROM moved)",
    "UPDATE documents AS d SET version = m.version FROM moved m WHERE d.id = m.id AND d.file = m.file",
    # Those that the topic has from elsewhere need no deletion.
    "DELETE FROM documents WHERE (id, file) IN (SELECT id, file FROM vanished WHERE version IS NULL)",
    "DELETE FROM vanished WHERE version IS NULL OR id IN (SELECT id FROM moved)",
)
# What a file lacks of which something was refused may be what was refused.
_KEPT = """
    WITH last AS (
        SELECT d.file, max(d.run) AS run FROM documents d JOIN seen s USING (file)
        JOIN files f ON f.id = d.file WHERE f.run = 0 GROUP BY d.file
    )
    SELECT count(*) FROM documents d JOIN last l USING (file) WHERE d.version IS NOT NULL AND d.run < l.run
"""
_FORGET_FILES = """
    DELETE FROM files WHERE folder IN (SELECT o.id FROM folders o JOIN roots r USING (root))
    AND id NOT IN (SELECT file FROM seen) AND id NOT IN (SELECT file FROM documents)
"""


class Vanished:
    """Remembers which files a walk has found, on disk, to say at its end what is not there any more."""

    def __init__(self, ledger: Ledger, roots: Sequence[str]) -> None:
        """Begin a walk.

        Args:
            ledger: Open.
            roots: What is walked, absolute; files of other roots are left alone.
        """
        self._ledger = ledger
        with ledger.explained() as connection:
            connection.execute("CREATE TEMP TABLE seen (file INTEGER PRIMARY KEY)")
            connection.execute("CREATE TEMP TABLE roots (root TEXT PRIMARY KEY)")
            connection.executemany("INSERT OR IGNORE INTO roots VALUES (?)", [(root,) for root in roots])

    def saw(self, files: Sequence[int]) -> None:
        """Note that the walk has found these files."""
        with self._ledger.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", [(file,) for file in files])

    def find(self) -> tuple[int, int]:
        """Return how many documents have vanished, and how many the topic has of the roots with them."""
        self._claim()
        with self._ledger.explained() as connection:
            connection.executescript(_FIND)
            vanished = connection.execute(
                "SELECT count(*) FROM vanished WHERE version IS NOT NULL AND id NOT IN (SELECT id FROM moved)"
            ).fetchone()
            total = connection.execute(
                "SELECT count(*) FROM documents d JOIN files f ON f.id = d.file"
                " JOIN folders o ON o.id = f.folder JOIN roots r USING (root) WHERE d.version IS NOT NULL"
            ).fetchone()
        return int(vanished[0]), int(total[0])

    def kept(self) -> Iterator[tuple[int, str]]:
        """Yield how many documents are not deleted though the walk has not found them, and why."""
        unclaimed = f"SELECT count(*) FROM documents WHERE file = {FROM_TOPIC} AND version IS NOT NULL"  # noqa: S608
        for query, why in (
            (unclaimed, "documents of the topic are of none of these paths, or of nobody knows which"),
            (_KEPT, "documents are missing in files of which something was refused"),
        ):
            with self._ledger.explained() as connection:
                (count,) = connection.execute(query).fetchone()
            if count:
                yield count, why

    def _claim(self) -> None:
        """Give the documents that are known from the topic alone to the files that their records name."""
        with self._ledger.transaction() as connection:
            for document_id, root, relative in connection.execute(_UNCLAIMED).fetchall():
                folder, slash, name = (relative or root.rpartition("/")[2]).rpartition("/")
                number = self._ledger.folder(root, folder + slash)
                (row,) = self._ledger.files(number, [name])
                file = self._ledger.new_file() if row is None else row[4]
                if row is None:
                    connection.execute(
                        "INSERT INTO files VALUES (?, ?, ?, -1, 0, 0, 0, NULL)", (file, number, name)
                    )
                for statement in _CLAIM:
                    connection.execute(statement, {"id": document_id, "file": file})

    def deletions(self) -> Iterator[Deletion]:
        """Forget what needs no deletion, and yield one for each of the others; `find` comes first."""
        with self._ledger.transaction() as connection:
            for statement in _MOVE:
                connection.execute(statement)
        for start in itertools.count(0, _AT_A_TIME):
            query = "SELECT id, file, version FROM vanished ORDER BY rowid LIMIT ? OFFSET ?"
            with self._ledger.explained() as connection:
                rows = connection.execute(query, (_AT_A_TIME, start)).fetchall()
            if not rows:
                return
            yield from (Deletion(*row) for row in rows)

    def forget_files(self) -> None:
        """Forget the files that have vanished and of which the topic has nothing any more."""
        with self._ledger.transaction() as connection:
            connection.execute(_FORGET_FILES)


_ORPHANS = f"""
    SELECT DISTINCT d.file FROM documents d
    WHERE d.version IS NULL AND d.file <> {FROM_TOPIC}
    AND NOT EXISTS (SELECT 1 FROM documents s WHERE s.id = d.id AND s.version IS NOT NULL)
    AND NOT EXISTS (
        SELECT 1 FROM documents s WHERE substr(s.content_hash, 1, 8) = substr(d.content_hash, 1, 8)
        AND s.version IS NOT NULL AND s.content_hash = d.content_hash
    )
"""  # noqa: S608


def orphans(ledger: Ledger) -> set[int]:
    """Return the files with a document that was left out for another's sake, which the topic has no more.

    They have to be read again though they are as they were.
    """
    with ledger.explained() as connection:
        return {file for (file,) in connection.execute(_ORPHANS)}
