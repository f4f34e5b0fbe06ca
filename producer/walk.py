"""Find a corpus's files: a folder at a time, in batches, however many there are.

    for batch in walk(["corpus", "s3://bucket/more"], is_known, on_refusal=print):
        for file in batch.files:
            print(batch.root, file.relative, file.size, file.mtime_ns)

A `Batch` holds up to `BATCH_FILES` files of one folder, sorted by name, and never an empty list. A larger
folder is several batches, one after the other but for its subfolders' between them, each sorted in itself
alone: the order of a folder of millions is the file system's. Nothing else is kept in memory, and no file is
opened. Size and modification time come from the walk, so that a ledger can compare a whole batch with what
it knows before anything is read: `(batch.root, file.relative)` names a file, `size` and `mtime_ns` change
with it.

What is left out goes to `on_refusal` on the way. A folder that can't be read makes the walk incomplete, and
is reported with a reason that is no notice (`UNREADABLE` or `VANISHED`): who removes what a walk did not
find must see none of those.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from embedstream.errors import UsageError
from producer import s3
from producer.filters import EVERYTHING, Filter
from producer.refusals import Reason, Refusal, printable
from producer.sidecars import FOLDER, Sidecars

__all__ = ["BATCH_FILES", "Batch", "FoundFile", "check_paths", "walk"]

BATCH_FILES = 1000
"""The most files of a batch, and the most entries of a folder that are sorted together."""


class FoundFile(NamedTuple):
    """A file of the corpus; a tuple, since there are millions.

    Attributes:
        path: As the operating system wants it, or a URI; `printable` makes it text.
        relative: Relative to the root that was given, with `/`; a file given by itself has its name.
        size: In bytes, as it lies there; with its sidecar's.
        mtime_ns: When it was last modified, nanoseconds since the epoch; with a sidecar the sum of both,
            which changes with either, even if a tool has kept an older time.
        sidecar: Path or URI of the file that holds its metadata; empty for none.
    """

    path: str
    relative: str
    size: int = 0
    mtime_ns: int = 0
    sidecar: str = ""


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


def check_paths(paths: Sequence[str | Path], is_known: Callable[[str], bool], kinds: Iterable[str]) -> None:
    """Look at what was named on the command line, before anything is read.

    Args:
        paths: Files, folders and `s3://` URIs.
        is_known: Whether there is a source for a file of this name.
        kinds: Their suffixes, for the error.

    Raises:
        UsageError: Nothing is named, or a path is neither a folder nor a file of a known kind.
        ConfigError: It lies in S3, and the extra or the credentials are missing.
        ServiceUnavailableError: S3 does not answer.
    """
    if not paths:
        raise UsageError("nothing to read", "name a file or a folder")
    for given in map(str, paths):
        if s3.is_uri(given):
            s3.check(given)
            continue
        path = Path(given)
        told = printable(given)
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
                f"name a folder, or a file that ends in {', '.join(kinds)}",
            )


def walk(
    paths: Sequence[str | Path],
    is_known: Callable[[str], bool],
    on_refusal: Callable[[Refusal], None],
    wanted: Filter = EVERYTHING,
) -> Iterator[Batch]:
    """Yield the files under the paths, a folder's own before those of its subfolders.

    Symbolic links are followed, unless one leads back to a folder that it lies in. What is left out, whether
    hidden, of an unknown kind or unreadable, goes to `on_refusal`.

    Args:
        paths: Files, folders and `s3://` URIs, as `check_paths` takes them.
        is_known: Whether there is a source for a file of this name.
        on_refusal: Called for each file or folder that is left out.
        wanted: Which of the files to yield.
    """
    look = _Look(is_known, on_refusal, wanted)
    for path in map(str, paths):
        if s3.is_uri(path):
            yield from _walk_s3(path, look)
            continue
        if os.path.isdir(path):  # noqa: PTH112 - what is given is used as it is, with its slashes and dots
            yield from _walk_folder(path, look)
            continue
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError as error:
            on_refusal(_unreadable(path, error))
            continue
        name = printable(os.path.basename(path))  # noqa: PTH119
        if look.takes(name, path):
            file = FoundFile(path, name, found.st_size, found.st_mtime_ns)
            yield from _batches(path, "", os.path.dirname(path) or ".", [file], look)  # noqa: PTH120


@dataclass(frozen=True, slots=True)
class _Look:
    """What is looked for, and who is told what is not."""

    is_known: Callable[[str], bool]
    on_refusal: Callable[[Refusal], None]
    wanted: Filter

    def takes(self, relative: str, path: str) -> bool:
        """Return whether a file is wanted, by its path relative to the root; a known kind is given."""
        if not self.wanted or self.wanted.takes(relative):
            return True
        self.refuse(Reason.EXCLUDED, path, "left out by --include or --exclude")
        return False

    def refuse(self, reason: Reason, path: str, told: str) -> None:
        self.on_refusal(Refusal(reason, printable(path), told))


def _batches(root: str, relative: str, folder: str, files: list[FoundFile], look: _Look) -> Iterator[Batch]:
    """Yield the files of one folder as a batch, if there are any, each with the sidecar that it has."""
    if [file for file in files if file.relative[-5:] != ".json"] or folder.endswith(f"/{FOLDER}"):
        try:
            files = _with_sidecars(folder, files, look)
        except OSError as error:
            look.on_refusal(_unreadable(folder, error))
    if files:
        yield Batch(root, relative, files)


def _with_sidecars(folder: str, files: list[FoundFile], look: _Look) -> list[FoundFile]:
    names = [file.path.rpartition("/")[2] for file in files]
    sidecars = Sidecars(folder, names)
    kept = []
    for name, file in zip(names, files, strict=True):
        if sidecars.is_one(name):
            look.refuse(Reason.SIDECAR, file.path, "the metadata of another file")
            continue
        sidecar = sidecars.of(name)
        if sidecar is not None:
            path, size, mtime_ns = sidecar
            file = file._replace(size=file.size + size, mtime_ns=file.mtime_ns + mtime_ns, sidecar=path)
        kept.append(file)
    return kept


def _walk_s3(root: str, look: _Look) -> Iterator[Batch]:
    try:
        for page in s3.objects(root):
            for folder, found in itertools.groupby(page, key=lambda each: each.relative.rpartition("/")[0]):
                files = [FoundFile(*each) for each in found if _wanted_object(each, look)]
                relative = f"{folder}/" if folder else ""
                if files:
                    yield from _batches(root, relative, files[0].path.rpartition("/")[0], files, look)
    except OSError as error:
        look.on_refusal(_unreadable(root, error))


def _wanted_object(found: s3.FoundObject, look: _Look) -> bool:
    if any(part.startswith(".") for part in found.relative.split("/")):
        look.refuse(Reason.HIDDEN, found.uri, "a name begins with a dot")
    elif not look.is_known(found.uri.rpartition("/")[2]):
        look.refuse(Reason.UNKNOWN_SUFFIX, found.uri, "no source reads files of this name")
    else:
        return look.takes(found.relative, found.uri)
    return False


@dataclass(slots=True)
class _Folder:
    """A folder that is being read; its identity is what a loop of links comes back to.

    Attributes:
        runs: What was not looked at yet.
        path: As the operating system wants it.
        relative: As text, relative to the root, with `/` at its end; the root's is empty.
        identity: Device and inode.
        subfolders: Names of those that were found and are to be read next; the last one first.
    """

    runs: Iterator[list[os.DirEntry[str]]]
    path: str
    relative: str
    identity: tuple[int, int]
    subfolders: list[str] = field(default_factory=list)


def _walk_folder(root: str, look: _Look) -> Iterator[Batch]:
    on_refusal = look.on_refusal
    open_folders: list[_Folder] = []
    try:
        open_folders.append(_open(root, ""))
    except OSError as error:
        on_refusal(_unreadable(root, error))
    while open_folders:
        folder = open_folders[-1]
        if folder.subfolders:
            inner = _enter(folder.subfolders.pop(), folder, open_folders, look)
            if inner is not None:
                open_folders.append(inner)
            continue
        try:
            run = next(folder.runs, None)
        except OSError as error:
            on_refusal(_unreadable(folder.path, error))
            run = None
        if run is None:
            open_folders.pop()
            continue
        files = _files(run, folder, look)
        # After the look at each: in the folder's own order the file system answers faster.
        files.sort(key=_path)
        folder.subfolders.sort(reverse=True)
        if files:
            yield from _batches(root, folder.relative, folder.path.rstrip("/"), files, look)


def _files(run: list[os.DirEntry[str]], folder: _Folder, look: _Look) -> list[FoundFile]:
    """Return the files among some entries of a folder, and add its subfolders to it."""
    files = []
    is_known, everything, above = look.is_known, not look.wanted, folder.relative
    within = os.path.join(folder.path, "")  # noqa: PTH118 - with `/` at its end
    for entry in run:
        name = entry.name
        try:
            if name[0] == ".":
                look.refuse(Reason.HIDDEN, within + name, "the name begins with a dot")
            elif is_known(name) and entry.is_file():
                relative = above + (name if name.isascii() else printable(name))
                if everything or look.takes(relative, within + name):
                    found = entry.stat()
                    files.append(FoundFile(within + name, relative, found.st_size, found.st_mtime_ns))
            elif entry.is_dir():
                folder.subfolders.append(name)
            elif not is_known(name):
                look.refuse(Reason.UNKNOWN_SUFFIX, within + name, "no source reads files of this name")
            else:
                entry.stat()  # for what is wrong with a link
                look.refuse(Reason.NOT_A_FILE, within + name, "a pipe, a socket or a device")
        except OSError as error:
            look.on_refusal(_unreadable(within + name, error))
    return files


def _enter(name: str, folder: _Folder, open_folders: list[_Folder], look: _Look) -> _Folder | None:
    path = os.path.join(folder.path, name)  # noqa: PTH118
    relative = folder.relative + printable(name)
    if not look.wanted.enters(relative):
        look.refuse(Reason.EXCLUDED, path, "the folder is left out by --exclude")
        return None
    try:
        inner = _open(path, f"{relative}/")
    except OSError as error:
        look.on_refusal(_unreadable(path, error))
        return None
    if any(inner.identity == outer.identity for outer in open_folders):
        look.refuse(Reason.SYMLINK_LOOP, path, "a symbolic link to a folder that it lies in")
        return None
    return inner


def _open(path: str, relative: str) -> _Folder:
    found = os.stat(path)  # noqa: PTH116 - a Path for each folder is only slower
    return _Folder(_runs(path), path, relative, (found.st_dev, found.st_ino))


def _runs(path: str) -> Iterator[list[os.DirEntry[str]]]:
    """Yield a folder's entries, up to `BATCH_FILES` at once; each run is to be looked at before the next."""
    # An open folder's entries are found by their names alone: a seventh less time than by their paths.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(folder) as entries:
            while run := list(itertools.islice(entries, BATCH_FILES)):
                yield run
    finally:
        os.close(folder)


def _path(file: FoundFile) -> str:
    return file[0]


def _unreadable(path: str, error: OSError) -> Refusal:
    if error.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114
        return Refusal(Reason.VANISHED, printable(path), "a symbolic link to nothing")
    reason = {errno.ELOOP: Reason.SYMLINK_LOOP, errno.ENOENT: Reason.VANISHED}.get(
        error.errno or 0, Reason.UNREADABLE
    )
    return Refusal(reason, printable(path), error.strerror or str(error))
