"""What of a corpus has to be sent: all that the ledger does not know yet, and what has changed since.

    changes = Changes(ledger, rules, skip_duplicates=True)
    for file in changes.unread(batch): ...        # the files that have to be read
    for document in changes.choose(documents): ...  # of those read, the documents that have to be sent
    changes.arrived(document, version)              # when all its records are acknowledged
    changes.commit(offsets)                         # now and then

Every document of a file has to be dealt with, be it sent, left out or refused, before the file counts as
read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from producer.documents import PreparedDocument
from producer.ledger import FROM_TOPIC, FileRow, Ledger, Place, Rows
from producer.reading import FileToRead
from producer.refusals import LASTING, Reason, Refusal
from producer.sender import Deletion
from producer.walk import Batch, FoundFile

__all__ = ["Changes", "Everything", "ToSend"]

_MAX_KEPT_REFUSALS = 100


class ToSend(NamedTuple):
    """A document that has to be sent, and the version that its own must be above."""

    document: PreparedDocument
    above: int


class _OpenFile:
    """A file that is being read, and how much of it has yet to be dealt with."""

    __slots__ = ("ended", "folder", "found", "is_written", "name", "open", "refusals", "unsettled")

    def __init__(self, folder: int, name: str, found: FoundFile, *, is_written: bool) -> None:
        self.folder = folder
        self.name = name
        self.found = found
        self.is_written = is_written
        self.open = 0
        self.ended = False
        self.unsettled = False
        self.refusals: list[Refusal] = []


class Everything:
    """Stands where no ledger is kept: every document has to be sent, and nothing is written down."""

    unchanged_files = unchanged_bytes = unchanged = duplicates = 0

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._last = 0

    def unread(self, batch: Batch, root: str) -> tuple[list[FileToRead], list[int], list[Refusal]]:
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


class Changes(Everything):
    """Compares a corpus with a ledger, and keeps that up to date.

    Attributes:
        unchanged_files: How many files were not read since the ledger knows them as they are.
        unchanged_bytes: Their sizes.
        unchanged: How many documents of the files that were read are in the topic as they are.
        duplicates: How many were left out because the topic has their content under another id.
    """

    def __init__(self, ledger: Ledger, rules: int, *, skip_duplicates: bool, rehash: bool = False) -> None:
        """Begin a run.

        Args:
            ledger: Open.
            rules: A digest of the settings that decide which documents a file makes.
            skip_duplicates: Whether a content that the topic has under another id is left out.
            rehash: Whether to read files though the ledger knows them as they are.
        """
        self.unchanged_files = 0
        self.unchanged_bytes = 0
        self.unchanged = 0
        self.duplicates = 0
        super().__init__()
        self._ledger = ledger
        self._rules = rules
        self._skip_duplicates = skip_duplicates
        self._rehash = rehash
        self._files: dict[int, _OpenFile] = {}
        self._rows = Rows()
        # Of what was sent and is not in the ledger yet.
        self._sent: dict[str, Place] = {}
        # Ids of what is being sent and was known from another file, or from the topic alone.
        self._moved: set[str] = set()
        self._sent_contents: dict[bytes, str] = {}

    def unread(self, batch: Batch, root: str) -> tuple[list[FileToRead], list[int], list[Refusal]]:
        """Compare files with what the ledger knows of them.

        Args:
            batch: The files, as they are now.
            root: Their root, absolute.

        Returns:
            The files that have to be read; the numbers of all; and of those that have not to be read what was
            refused when they were.
        """
        folder = self._ledger.folder(root, batch.folder)
        prefix = len(batch.folder)
        names = [found.relative[prefix:] for found in batch.files]
        known = self._ledger.files(folder, names)
        rules = None if self._rehash else self._rules
        unread, numbers, refusals = [], [], []
        for name, found in zip(names, batch.files, strict=True):
            row = known.get(name)
            number = self._ledger.new_file() if row is None else row[3]
            numbers.append(number)
            if row is not None and row[:3] == (found.size, found.mtime_ns, rules):
                self.unchanged_files += 1
                self.unchanged_bytes += found.size
                if row[4] is not None:
                    refusals += _from_json(row[4])
                continue
            self._files[number] = _OpenFile(folder, name, found, is_written=row is not None)
            unread.append(FileToRead(number, found))
        return unread, numbers, refusals

    def again(self, batch: Batch, root: str, wanted: set[int]) -> list[FileToRead]:
        """Return those files of a batch whose numbers are wanted, whatever the ledger knows of them."""
        folder = self._ledger.folder(root, batch.folder)
        prefix = len(batch.folder)
        named = {found.relative[prefix:]: found for found in batch.files}
        found = []
        for name, (_, _, _, number, _) in self._ledger.files(folder, list(named)).items():
            if number in wanted:
                self._files[number] = _OpenFile(folder, name, named[name], is_written=True)
                found.append(FileToRead(number, named[name]))
        return found

    def gone(self, deletion: Deletion, version: int) -> None:
        """Note that a deletion is acknowledged."""
        self._rows.removed.append((deletion.id, deletion.file))
        self._rows.highest_version = max(self._rows.highest_version, version)

    def path(self, file: int) -> str:
        """Return the path of a file that is being read."""
        return self._files[file].found.path

    def choose(self, documents: Sequence[PreparedDocument]) -> Iterator[ToSend]:
        """Yield those documents that have to be sent, in order; each is `arrived` or `refused` later."""
        places = self._ledger.places([each.id for each in documents])
        contents = {}
        if self._skip_duplicates:
            contents = self._ledger.sent_contents([each.content_hash for each in documents])
        for document in documents:
            document_id, file, _, content_hash, *_ = document
            known = places.get(document_id, ())
            twin = self._sent_contents.get(content_hash) or contents.get(content_hash)
            above = self._ledger.highest_version
            if known or twin or document_id in self._sent:
                if self._is_settled(document, known, twin if self._skip_duplicates else None):
                    continue
                if any(each.file != file for each in known) or document_id in self._sent:
                    self._moved.add(document_id)
                above = self._last_version(document_id, known)
            self._files[file].open += 1
            yield ToSend(document, above)

    def sent(self, document: PreparedDocument, version: int) -> None:
        """Note that a document is on its way, so that its like is not sent too."""
        self._sent[document.id] = self._place(document, version)
        self._sent_contents[document.content_hash] = document.id

    def arrived(self, document: PreparedDocument, version: int) -> None:
        """Note that all records of a document are acknowledged."""
        file = document.file
        rows = self._rows
        place = self._sent.get(document.id)
        if place is None or place.version != version:
            # A report can come before `sent`, and that of one version after the next was sent.
            place = self._place(document, version)
        rows.places.append(place)
        if document.id in self._moved:
            rows.elsewhere.append((document.id, file))
            rows.removed.append((document.id, FROM_TOPIC))
        rows.highest_version = max(rows.highest_version, version)
        self._settle(file)

    def refused(self, file: int, refusal: Refusal, document: PreparedDocument | None = None) -> None:
        """Note that a document, or something else of a file, can't be sent.

        Args:
            file: The number of its file.
            refusal: Why.
            document: The one that `choose` had yielded; None for what was refused before.
        """
        state = self._files[file]
        state.refusals.append(refusal)
        if refusal.reason not in LASTING or len(state.refusals) > _MAX_KEPT_REFUSALS:
            state.unsettled = True
            del state.refusals[1:]
        if document is not None:
            self._forget(document.id, document.content_hash)
            self._settle(file)

    def ended(self, file: int) -> None:
        """Note that nothing more comes of a file."""
        state = self._files[file]
        state.ended = True
        self._close_if_done(file, state)

    def __len__(self) -> int:
        """How many rows wait for `commit`."""
        return len(self._rows)

    def commit(self, offsets: dict[int, int]) -> None:
        """Write what has arrived, with the offset after each partition's highest acknowledged record."""
        rows, self._rows = self._rows, Rows()
        rows.offsets = offsets
        for file in {place.file for place in rows.places}:
            state = self._files.get(file)
            if state is not None and not state.is_written:
                state.is_written = True
                rows.files.append(self._row(file, state, size=-1))
        self._ledger.write(rows)
        for place in rows.places:
            if self._sent.get(place.id) == place:
                self._forget(place.id, place.content_hash)

    def _is_settled(self, document: PreparedDocument, known: Iterable[Place], twin: str | None) -> bool:
        """Return whether a document need not be sent, and note where it is."""
        document_id, file, _, content_hash, metadata_hash, _, _ = document
        here = current = None
        for place in known:
            if place.file == file:
                here = place
            if place.version is not None:
                current = place
        pending = self._sent.get(document_id)
        if pending is not None:
            current = pending
            if pending.file == file:
                here = pending
        version = None
        if here is not None and here.same_as(content_hash, metadata_hash):
            if here is pending:
                return True
            # One that is on its way from another file is the newer one.
            version = here.version if pending is None else None
            if here.version is not None:
                self.unchanged += 1
            elif current is None and twin is None:
                return False  # what held its content has gone
            else:
                self._count(current)
        elif current is not None and current.same_as(content_hash, metadata_hash):
            self.unchanged += 1
            if current.file == FROM_TOPIC:
                version = current.version
                self._rows.removed.append((document_id, FROM_TOPIC))
        elif current is None and twin is not None and twin != document_id:
            self.duplicates += 1
        else:
            return False
        self._rows.places.append(self._place(document, version))
        return True

    def _place(self, document: PreparedDocument, version: int | None) -> Place:
        return Place(
            document.id,
            document.file,
            document.content_hash,
            document.metadata_hash,
            version,
            self._ledger.run,
        )

    def _last_version(self, document_id: str, known: Iterable[Place]) -> int:
        """Return a version that none of the document's is above; of a deleted one the ledger has no row."""
        pending = self._sent.get(document_id)
        return max(
            self._ledger.highest_version,
            (pending.version or 0) if pending else 0,
            *(place.version or 0 for place in known),
        )

    def _forget(self, document_id: str, content_hash: bytes) -> None:
        self._sent.pop(document_id, None)
        self._moved.discard(document_id)
        if self._sent_contents.get(content_hash) == document_id:
            del self._sent_contents[content_hash]

    def _count(self, current: Place | None) -> None:
        if current is None:
            self.duplicates += 1
        else:
            self.unchanged += 1

    def _settle(self, file: int) -> None:
        state = self._files[file]
        state.open -= 1
        self._close_if_done(file, state)

    def _close_if_done(self, file: int, state: _OpenFile) -> None:
        if state.open or not state.ended:
            return
        if not state.unsettled:
            self._rows.files.append(self._row(file, state, size=state.found.size))
        del self._files[file]

    def _row(self, file: int, state: _OpenFile, size: int) -> FileRow:
        refusals = _to_json(state.refusals) if state.refusals else None
        # Where a document was refused, one that was there before may only have become unreadable.
        whole = size >= 0 and all(each.reason.is_notice for each in state.refusals)
        run = self._ledger.run if whole else 0
        return FileRow(file, state.folder, state.name, size, state.found.mtime_ns, self._rules, run, refusals)


def _to_json(refusals: list[Refusal]) -> str:
    return json.dumps([[each.reason, each.path, each.message] for each in refusals])


def _from_json(text: str) -> list[Refusal]:
    return [Refusal(Reason(reason), path, message) for reason, path, message in json.loads(text)]
