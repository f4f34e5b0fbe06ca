"""Opens a file of the corpus, wherever it lies, and notices whether it changed while it was read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from producer import s3
from producer.compression import CountedStream
from producer.refusals import Reason, RefusedError

__all__ = ["Opened", "opened", "read_at_once"]

_CHANGED = "it changed while it was read: run again when it is done"


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is open.

    Attributes:
        raw: Its bytes as they lie there.
        check_unchanged: Raises RefusedError if the file is not what it was when it was opened.
    """

    raw: CountedStream
    check_unchanged: Callable[[], None]


@contextlib.contextmanager
def opened(path: str, on_bytes: Callable[[int], None], *, in_order: bool = True) -> Iterator[Opened]:
    """Open a file, and close it at the end.

    Args:
        path: Of a local file, or an `s3://` URI.
        on_bytes: Told how many bytes were taken, each time that some were.
        in_order: Whether it is read from its begin to its end.

    Raises:
        OSError: It can't be opened.
    """
    if s3.is_uri(path):
        with s3.open_object(path, in_order=in_order) as stream:
            # A read of an object that was replaced fails by itself.
            yield Opened(CountedStream(stream, on_bytes), lambda: None)
        return
    with Path(path).open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())

        def check_unchanged() -> None:
            after = os.fstat(file.fileno())
            if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
                raise RefusedError(Reason.CHANGED, _CHANGED)

        yield Opened(CountedStream(file, on_bytes), check_unchanged)


def read_at_once(path: str, size: int) -> bytes | None:
    """Return all of a small local file, None if it is not as large as it is said to be.

    Raises:
        OSError: It can't be read.
        RefusedError: It changed meanwhile.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        data = os.read(descriptor, size + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
        raise RefusedError(Reason.CHANGED, _CHANGED)
    return data if len(data) == size else None
