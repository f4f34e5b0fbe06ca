"""What has to be sent where no ledger is kept: every document there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from producer.documents import PreparedDocument
from producer.reading import FileToRead
from producer.refusals import Refusal
from producer.sender import Deletion
from producer.walk import Batch

__all__ = ["Everything", "ToSend"]


class ToSend(NamedTuple):
    """A document that has to be sent.

    Attributes:
        document: It.
        above: Its version must be above this one.
        replaces: Whether it takes the place of another document that this run has found under its id.
    """

    document: PreparedDocument
    above: int
    replaces: bool = False


class Everything:
    """Stands where no ledger is kept: every document has to be sent, and nothing is written down."""

    unchanged_files = unchanged_bytes = unchanged = duplicates = 0

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._last = 0

    def unread(
        self, batch: Batch, root: str
    ) -> tuple[list[FileToRead], list[int], list[tuple[Refusal, int]]]:
        """Return all files; see `Changes`."""
        del root
        unread = []
        for found in batch.files:
            self._last += 1
            self._paths[self._last] = found.path
            unread.append(FileToRead(self._last, found))
        return unread, [], []

    def path(self, file: int) -> str:
        """Return the path of a file that is being read."""
        return self._paths[file]

    def choose(self, documents: Sequence[PreparedDocument]) -> Iterator[ToSend]:
        """Yield them all."""
        return (ToSend(document, 0) for document in documents)

    def sent(self, document: PreparedDocument, version: int) -> None:
        """Do nothing."""

    def arrived(self, document: PreparedDocument, version: int) -> None:
        """Do nothing."""

    def gone(self, deletion: Deletion, version: int) -> None:
        """Do nothing."""

    def refused(self, file: int, refusal: Refusal, document: PreparedDocument | None = None) -> None:
        """Do nothing."""

    def ended(self, file: int) -> None:
        """Forget the file's path."""
        del self._paths[file]

    def __len__(self) -> int:
        """Nothing ever waits."""
        return 0

    def commit(self, offsets: dict[int, int]) -> None:
        """Do nothing."""
