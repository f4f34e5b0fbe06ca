"""Find a corpus's files: a folder at a time, in batches, however many there are.

    for batch in walk(["corpus", "s3://bucket/more"], is_known, on_refusal=print):
        for file in batch.files:
            print(batch.root, file.relative, file.size, file.mtime_ns)

A `Batch` holds up to `BATCH_FILES` files of one folder, sorted by name, and never an empty list. A larger
folder is several batches, one after the other but for its subfolders' between them, each sorted in itself
alone: the order of a folder of millions is the file system's. Nothing else is kept in memory, and no file is
opened. Size and modification time come from the walk, so that a ledger can compare a whole batch with what it
knows before anything is read: `(batch.root, file.relative)` names a file, `size` and `mtime_ns` change with it.

What is left out goes to `on_refusal` on the way. A folder that can't be read makes the walk incomplete, and is
reported with a reason that is no notice (`UNREADABLE` or `VANISHED`): who removes what a walk did not find
must see none of those.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from embedstream.errors import UsageError
from producer.refusals import Reason, Refusal, printable

__all__ = ["BATCH_FILES", "Batch", "FoundFile", "check_paths", "walk"]

BATCH_FILES = 1000
"""The most files of a batch, and the most entries of a folder that are sorted together."""


class FoundFile(NamedTuple):
    """A file of the corpus; a tuple, since there are millions.

    Attributes:
        path: As the operating system wants it, or a URI; `printable` makes it text.
        relative: Relative to the root that was given, with `/`; a file given by itself has its name.
        size: In bytes, as it lies there.
        mtime_ns: When it was last modified, nanoseconds since the epoch.
    """

    path: str
    relative: str
    size: int = 0
    mtime_ns: int = 0


class Batch(NamedTuple):
    """Files of one folder.

    Attributes:
        root: The path that was given, as it was given.
        folder: The folder relative to the root: "" for the root itself and for a file given by itself, else
            with `/` at its end.
        files: At least one, at most `BATCH_FILES`, sorted by name.
    """

    root: str
    folder: str
    files: list[FoundFile]


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
) -> Iterator[Batch]:
    """Yield the files under the paths, a folder's own before those of its subfolders.

    Symbolic links are followed, unless one leads back to a folder that it lies in. What is left out, whether
    hidden, of an unknown kind or unreadable, goes to `on_refusal`.

    Args:
        paths: Files and folders, as `check_paths` takes them.
        is_known: Whether there is a source for a file of this name.
        on_refusal: Called for each file or folder that is left out.
    """
    for path in map(str, paths):
        if os.path.isdir(path):  # noqa: PTH112 - what is given is used as it is, with its slashes and dots
            yield from _walk_folder(path, is_known, on_refusal)
            continue
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError as error:
            on_refusal(_unreadable(path, error))
            continue
        file = FoundFile(path, printable(os.path.basename(path)), found.st_size, found.st_mtime_ns)  # noqa: PTH119
        yield Batch(path, "", [file])


@dataclass(slots=True)
class _Folder:
    """A folder that is being read; its identity is what a loop of links comes back to.

    Attributes:
        entries: What was not looked at yet.
        path: As the operating system wants it.
        relative: As text, relative to the root, with `/` at its end; the root's is empty.
        identity: Device and inode.
        subfolders: Of the entries that were looked at, to be read next; the last one first.
    """

    entries: Iterator[os.DirEntry[str]]
    path: str
    relative: str
    identity: tuple[int, int]
    subfolders: list[os.DirEntry[str]] = field(default_factory=list)


def _walk_folder(
    root: str, is_known: Callable[[str], bool], on_refusal: Callable[[Refusal], None]
) -> Iterator[Batch]:
    open_folders: list[_Folder] = []
    try:
        open_folders.append(_open(root, ""))
    except OSError as error:
        on_refusal(_unreadable(root, error))
    while open_folders:
        folder = open_folders[-1]
        if folder.subfolders:
            inner = _enter(folder.subfolders.pop(), folder, open_folders, on_refusal)
            if inner is not None:
                open_folders.append(inner)
            continue
        try:
            run = list(itertools.islice(folder.entries, BATCH_FILES))
        except OSError as error:
            on_refusal(_unreadable(folder.path, error))
            run = []
        if not run:
            open_folders.pop()
            continue
        files = _files(run, folder, is_known, on_refusal)
        # After the look at each: in the folder's own order the file system answers faster.
        files.sort()
        folder.subfolders.sort(key=_name, reverse=True)
        if files:
            yield Batch(root, folder.relative, files)


def _files(
    run: list[os.DirEntry[str]],
    folder: _Folder,
    is_known: Callable[[str], bool],
    on_refusal: Callable[[Refusal], None],
) -> list[FoundFile]:
    """Return the files among some entries of a folder, and add its subfolders to it."""
    files = []
    for entry in run:
        name = entry.name
        try:
            if name[0] == ".":
                on_refusal(Refusal(Reason.HIDDEN, printable(entry.path), "the name begins with a dot"))
            elif entry.is_dir():
                folder.subfolders.append(entry)
            elif not is_known(name):
                told = "no source reads files of this name"
                on_refusal(Refusal(Reason.UNKNOWN_SUFFIX, printable(entry.path), told))
            else:
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    relative = folder.relative + (name if name.isascii() else printable(name))
                    files.append(FoundFile(entry.path, relative, found.st_size, found.st_mtime_ns))
                else:
                    told = "a pipe, a socket or a device"
                    on_refusal(Refusal(Reason.NOT_A_FILE, printable(entry.path), told))
        except OSError as error:
            on_refusal(_unreadable(entry.path, error))
    return files


def _enter(
    entry: os.DirEntry[str],
    folder: _Folder,
    open_folders: list[_Folder],
    on_refusal: Callable[[Refusal], None],
) -> _Folder | None:
    try:
        inner = _open(entry.path, f"{folder.relative}{printable(entry.name)}/")
    except OSError as error:
        on_refusal(_unreadable(entry.path, error))
        return None
    if any(inner.identity == outer.identity for outer in open_folders):
        told = "a symbolic link to a folder that it lies in"
        on_refusal(Refusal(Reason.SYMLINK_LOOP, printable(entry.path), told))
        return None
    return inner


def _open(path: str, relative: str) -> _Folder:
    found = os.stat(path)  # noqa: PTH116 - a Path for each folder is only slower
    return _Folder(_entries(path), path, relative, (found.st_dev, found.st_ino))


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as found:
        yield from found


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _unreadable(path: str, error: OSError) -> Refusal:
    if error.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        return Refusal(Reason.VANISHED, printable(path), "a symbolic link to nothing")
    reason = {errno.ELOOP: Reason.SYMLINK_LOOP, errno.ENOENT: Reason.VANISHED}.get(
        error.errno or 0, Reason.UNREADABLE
    )
    return Refusal(reason, printable(path), error.strerror or str(error))
