"""Metadata that lies beside a text instead of in it: `metadata/NAME.json` for `NAME.md`.

An archive's processor writes texts into `markdown/NAME.md` and their metadata into `metadata/NAME.json`, two
folders side by side; a `metadata` folder within that of the texts is taken too. Such a file is no document:
it is passed over where a walk meets it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence

from producer import s3
from producer.compression import COMPRESSIONS
from producer.refusals import Reason, RefusedError

__all__ = ["FOLDER", "MAX_BYTES", "TEXT_SUFFIXES", "Sidecars", "parse"]

FOLDER = "metadata"
"""The name of a folder of such files."""

TEXT_SUFFIXES = tuple(suffix + packed for suffix in (".md", ".txt") for packed in ("", *COMPRESSIONS))
"""The ends of the names of files that can have one."""

MAX_BYTES = 1024 * 1024
"""The most that such a file may take: 32 times what a document's metadata may."""

_TEXTS_FOLDER = "markdown"


class Sidecars:
    """What belongs together around some files of one folder."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        """Look at what lies around the files.

        Args:
            folder: The folder's absolute path or URI, without `/` at its end.
            names: Of its files, at least one.

        Raises:
            OSError: S3 does not answer.
        """
        parent, _, own = folder.rpartition("/")
        self._stat: Callable[[str], tuple[int, int] | None] = _stat
        self._texts: list[str] = []
        self._places: list[str] = []
        has_neighbours = parent != "s3:/"  # beside a bucket lies somebody else's
        if own == FOLDER and has_neighbours:
            self._texts = [f"{parent}/{_TEXTS_FOLDER}/", f"{parent}/"]
        elif any(name.lower().endswith(TEXT_SUFFIXES) for name in names):
            self._places = [f"{folder}/{FOLDER}/"]
            if has_neighbours:
                self._places.append(f"{parent}/{FOLDER}/")
        if s3.is_uri(folder):
            stems = [_stem(name) for name in names]
            around: dict[str, s3.FoundObject] = {}
            for place in (*self._texts, *self._places):
                around |= s3.objects_between(place, min(stems), max(stems))
            self._stat = lambda uri: around[uri][2:4] if uri in around else None
        else:
            self._places = [place for place in self._places if os.path.isdir(place)]  # noqa: PTH112

    def of(self, name: str) -> tuple[str, int, int] | None:
        """Return path, size and modification time in nanoseconds of the metadata of a text."""
        if not self._places or not name.lower().endswith(TEXT_SUFFIXES):
            return None
        for place in self._places:
            path = f"{place}{_stem(name)}.json"
            found = self._stat(path)
            if found is not None:
                return (path, *found)
        return None

    def is_one(self, name: str) -> bool:
        """Return whether a file of the folder is the metadata of a text."""
        if not self._texts or not name.endswith(".json"):
            return False
        stem = _stem(name)
        return any(self._stat(f"{place}{stem}{end}") for place in self._texts for end in TEXT_SUFFIXES)


def parse(data: bytes) -> dict[str, object]:
    """Return the fields of such a file.

    Raises:
        RefusedError: It is no JSON object.
    """
    if len(data) > MAX_BYTES:
        raise RefusedError(Reason.BAD_SIDECAR, f"its metadata file is longer than {MAX_BYTES} bytes")
    try:
        fields = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RefusedError(Reason.BAD_SIDECAR, f"its metadata file is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(Reason.BAD_SIDECAR, "its metadata file is not a JSON object")
    return fields


def _stat(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path for each file is only slower
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _stem(name: str) -> str:
    for suffix in (".json", *TEXT_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
