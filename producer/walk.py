"""Find a corpus's files: one at a time and in order, however many there are."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedstream.errors import UsageError
from producer.refusals import Reason, Refusal, printable

__all__ = ["FoundFile", "check_paths", "walk"]

# A folder of more entries is sorted in runs of this many, so that one of millions takes no memory.
_SORTED_AT_A_TIME = 10_000


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the corpus.

    Attributes:
        path: As the operating system wants it; `printable` makes it text.
        relative: Relative to the root that was given, with `/`; a file given by itself has its name.
    """

    path: str
    relative: str


def check_paths(paths: Sequence[str | Path], is_known: Callable[[str], bool]) -> None:
    """Look at what was named on the command line, before anything is read.

    Args:
        paths: Files and folders.
        is_known: Whether there is a source for a file of this name.

    Raises:
        UsageError: Nothing is named, or a path is neither a folder nor a file of a known kind.
    """
    if not paths:
        raise UsageError("nothing to read", "name a file or a folder")
    for path in map(Path, paths):
        told = printable(str(path))
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UsageError(f"{told} can't be read: {error.strerror}", "name one that exists") from None
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise UsageError(f"{told} is neither a file nor a folder", "name a file or a folder")
        if not is_known(path.name):
            raise UsageError(
                f"{told} is of no known kind",
                "name .json, .jsonl, .ndjson, .md or .txt, also with .gz or .zst",
            )


def walk(
    paths: Sequence[str | Path], is_known: Callable[[str], bool], on_refusal: Callable[[Refusal], None]
) -> Iterator[FoundFile]:
    """Yield the files under the paths, those of a folder sorted by name.

    Symbolic links are followed, unless one leads back to a folder that it lies in. What is left out, whether
    hidden, of an unknown kind or unreadable, goes to `on_refusal`.

    Args:
        paths: Files and folders, as `check_paths` takes them.
        is_known: Whether there is a source for a file of this name.
        on_refusal: Called for each file or folder that is left out.
    """
    for path in map(str, paths):
        if Path(path).is_dir():
            yield from _walk_folder(path, is_known, on_refusal)
        else:
            yield FoundFile(path, printable(Path(path).name))


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that is being read; its identity is what a loop of links comes back to."""

    entries: Iterator[os.DirEntry[str]]
    path: str
    relative: str
    identity: tuple[int, int]


def _walk_folder(
    root: str, is_known: Callable[[str], bool], on_refusal: Callable[[Refusal], None]
) -> Iterator[FoundFile]:
    open_folders = [_open(root, "")]
    while open_folders:
        folder = open_folders[-1]
        try:
            entry = next(folder.entries, None)
        except OSError as error:
            on_refusal(_unreadable(folder.path, error))
            entry = None
        if entry is None:
            open_folders.pop()
            continue
        relative = folder.relative + printable(entry.name)
        try:
            if entry.name.startswith("."):
                on_refusal(Refusal(Reason.HIDDEN, printable(entry.path), "the name begins with a dot"))
            elif entry.is_dir():
                inner = _open(entry.path, relative + "/")
                if any(inner.identity == outer.identity for outer in open_folders):
                    told = "a symbolic link to a folder that it lies in"
                    on_refusal(Refusal(Reason.SYMLINK_LOOP, printable(entry.path), told))
                else:
                    open_folders.append(inner)
            elif (refusal := _not_taken(entry, is_known)) is not None:
                on_refusal(refusal)
            else:
                yield FoundFile(entry.path, relative)
        except OSError as error:
            on_refusal(_unreadable(entry.path, error))


def _open(path: str, relative: str) -> _Folder:
    found = os.stat(path)  # noqa: PTH116 - a Path for each folder is only slower
    return _Folder(_entries(path), path, relative, (found.st_dev, found.st_ino))


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as found:
        while run := sorted(itertools.islice(found, _SORTED_AT_A_TIME), key=lambda entry: entry.name):
            yield from run


def _not_taken(entry: os.DirEntry[str], is_known: Callable[[str], bool]) -> Refusal | None:
    """Return why a file is left out, None if it is taken."""
    path = printable(entry.path)
    if not is_known(entry.name):
        return Refusal(Reason.UNKNOWN_SUFFIX, path, "no source reads files of this name")
    if entry.is_file():
        return None
    if entry.is_symlink():
        return Refusal(Reason.VANISHED, path, "a symbolic link to nothing")
    return Refusal(Reason.NOT_A_FILE, path, "a pipe, a socket or a device")


def _unreadable(path: str, error: OSError) -> Refusal:
    reason = {errno.ELOOP: Reason.SYMLINK_LOOP, errno.ENOENT: Reason.VANISHED}.get(
        error.errno or 0, Reason.UNREADABLE
    )
    return Refusal(reason, printable(path), error.strerror or str(error))
