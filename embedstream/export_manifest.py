"""How far an export is: what it reads, what it has written, and where it goes on.

A small JSON file, replaced as a whole each time, so that a process that dies leaves the one before.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedstream.errors import ConfigError
from embedstream.parquet_files import Precision, sync
from embedstream.snapshot import Snapshot

__all__ = ["Manifest", "WrittenFile"]

_FORMAT = 1


@dataclass(frozen=True)
class WrittenFile:
    """A file that is whole: its name and its rows."""

    name: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """An export and how far it is.

    Attributes:
        snapshot: What is read.
        precision: What the vectors are stored in.
        rows_per_file: Most rows of a file; 0 where there are no files, or one.
        rows: Rows that are written for good.
        partition: Of the embeddings topic: where to go on reading.
        offset: Where to go on reading in that partition.
        files: What is written for good, in order.
        complete: Whether everything is.
    """

    snapshot: Snapshot
    precision: Precision
    rows_per_file: int
    rows: int = 0
    partition: int = 0
    offset: int = 0
    files: tuple[WrittenFile, ...] = ()
    complete: bool = False

    def after(self, rows: int, position: tuple[int, int], file: str | None = None) -> Manifest:
        """Return the manifest after `rows` more, the last of which was read at `position`."""
        partition, offset = position
        files = self.files if file is None else (*self.files, WrittenFile(file, rows))
        return replace(self, rows=self.rows + rows, partition=partition, offset=offset + 1, files=files)

    def save(self, path: Path) -> None:
        """Write it, or leave what is there.

        Raises:
            OSError: It can't be written.
        """
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT} | asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)

    @classmethod
    def load(cls, path: Path) -> Manifest | None:
        """Return what was saved; None where nothing was.

        Raises:
            ConfigError: It can't be read, or another release wrote it.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("format") != _FORMAT:
                raise ValueError("its format is another")
            told["snapshot"] = _snapshot(told["snapshot"])
            told["files"] = tuple(WrittenFile(**each) for each in told["files"])
            return cls(**told)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} can't be read ({error})", "remove it and export anew, or export to another place"
            ) from None


def _snapshot(told: dict[str, Any]) -> Snapshot:
    # JSON has neither numbers as keys nor tuples.
    for name in ("embeddings", "dead_letters"):
        told[name] = {int(each): (extent[0], extent[1]) for each, extent in told[name].items()}
    return Snapshot(**told)
