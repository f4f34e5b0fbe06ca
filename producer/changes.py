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

from producer.documents import PreparedDocument
from producer.everything import Everything, ToSend
from producer.ledger import FROM_TOPIC, FileRow, KnownFile, Ledger, Place, Rows
from producer.reading import FileToRead
from producer.refusals import LASTING, Reason, Refusal, Tally
from producer.sender import Deletion
from producer.walk import Batch, FoundFile

__all__ = ["Changes"]


class _OpenFile:
    """A file that is being read, and how much of it has yet to be dealt with."""

    __slots__ = ("ended", "folder", "found", "is_written", "name", "open", "refusals", "unsettled")

    def __init__(self, folder: int, name: str, found: FoundFile) -> None:
        self.folder = folder
        self.name = name
        self.found = found
        self.is_written = False
        self.open = 0
        self.ended = False
        self.unsettled = False
        self.refusals: Tally | None = None


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
        # What each document adds to the counts: nothing in files that are read again, which counted before.
        self._counts_as = 1
        self._rows = Rows()
        # Of what was sent, and of what need not be: both until they are in the ledger.
        self._sent: dict[str, Place] = {}
        self._settled: dict[str, Place] = {}
        # Ids of what is being sent and was known from another file, or from the topic alone.
        self._moved: set[str] = set()
        self._sent_contents: dict[bytes, str] = {}

    def unread(
        self, batch: Batch, root: str
    ) -> tuple[list[FileToRead], list[int], list[tuple[Refusal, int]]]:
        """Compare files with what the ledger knows of them.

        Args:
            batch: The files, as they are now.
            root: Their root, absolute.

        Returns:
            The files that have to be read; the numbers of all; and of those that have not to be read what was
            refused when they were, each with how many it stands for.
        """
        folder, names, rows = self._known(batch, root)
        rules = None if self._rehash else self._rules
        unread, numbers = [], []
        unchanged_bytes = 0
        refusals: list[tuple[Refusal, int]] = []
        for name, found, row in zip(names, batch.files, rows, strict=True):
            if row is not None:
                _, size, mtime_ns, read_by, number, refused = row
                numbers.append(number)
                if size == found.size and mtime_ns == found.mtime_ns and read_by == rules:
                    unchanged_bytes += size
                    if refused is not None:
                        refusals += _from_json(refused)
                    continue
            else:
                number = self._ledger.new_file()
                numbers.append(number)
            self._files[number] = _OpenFile(folder, name, found)
            unread.append(FileToRead(number, found))
        self.unchanged_files += len(numbers) - len(unread)
        self.unchanged_bytes += unchanged_bytes
        return unread, numbers, refusals

    def again(self, batch: Batch, root: str, wanted: set[int]) -> list[FileToRead]:
        """Return those files of a batch whose numbers are wanted, whatever the ledger knows of them."""
        self._counts_as = 0
        folder, names, rows = self._known(batch, root)
        files = []
        for name, found, row in zip(names, batch.files, rows, strict=True):
            if row is not None and row[4] in wanted:
                self._files[row[4]] = _OpenFile(folder, name, found)
                files.append(FileToRead(row[4], found))
        return files

    def _known(self, batch: Batch, root: str) -> tuple[int, list[str], Sequence[KnownFile | None]]:
        """Return the number of a batch's folder, its files' names in that, and what is known of each."""
        folder = self._ledger.folder(root, batch.folder)
        prefix = len(batch.folder)
        names = [found.relative[prefix:] for found in batch.files]
        return folder, names, self._ledger.files(folder, names)

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
            replaces = False
            if known or twin or document_id in self._sent or document_id in self._settled:
                if self._is_settled(document, known, twin if self._skip_duplicates else None):
                    continue
                earlier = self._earlier(document_id, known)
                if earlier is not None:
                    if self._skip_duplicates and earlier.content_hash == content_hash:
                        self._leave_out(document, earlier)
                        continue
                    replaces = True
                if any(each.file != file for each in known) or document_id in self._sent:
                    self._moved.add(document_id)
                above = self._last_version(document_id, known)
            self._files[file].open += 1
            yield ToSend(document, above, replaces)

    def sent(self, document: PreparedDocument, version: int) -> None:
        """Note that a document is on its way, so that its like is not sent too."""
        replaced = self._sent.get(document.id)
        if replaced is not None and self._sent_contents.get(replaced.content_hash) == document.id:
            del self._sent_contents[replaced.content_hash]  # the topic does not stay with that text
        self._sent[document.id] = self._place(document, version)
        self._settled.pop(document.id, None)
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
        state.refusals = state.refusals or Tally()
        state.refusals.add(refusal)
        if refusal.reason not in LASTING:
            state.unsettled = True
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
        self._settled = {}
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
        pending = self._sent.get(document_id)
        for place in (*known, self._settled.get(document_id), pending):
            if place is not None and place.file == file:
                here = place
            if place is not None and place.version is not None:
                current = place
        version = None
        if current is not None and current.file == FROM_TOPIC:
            if not current.same_as(content_hash, metadata_hash):
                return False
            self.unchanged += self._counts_as
            version = current.version
            self._rows.removed.append((document_id, FROM_TOPIC))
        elif here is not None and here.same_as(content_hash, metadata_hash):
            if here is pending:
                self.duplicates += self._counts_as
                return True
            # One that is on its way from another file is the newer one.
            version = here.version if pending is None else None
            if here.version is not None:
                self.unchanged += self._counts_as
            elif current is None and twin is None:
                return False  # what held its content has gone
            else:
                self._count(current)
        elif current is not None and current.same_as(content_hash, metadata_hash):
            self.unchanged += self._counts_as
        elif current is None and twin is not None and twin != document_id:
            self.duplicates += self._counts_as
        else:
            return False
        self._note(self._place(document, version))
        return True

    def _earlier(self, document_id: str, known: Iterable[Place]) -> Place | None:
        """Return the document of this id that this run has found before, if the topic has it from there."""
        run = self._ledger.run
        places = (self._sent.get(document_id), self._settled.get(document_id), *known)
        return next((each for each in places if each and each.run == run and each.version is not None), None)

    def _leave_out(self, document: PreparedDocument, earlier: Place) -> None:
        """Note an exact duplicate under the same id, with other metadata."""
        self.duplicates += self._counts_as
        if document.file != earlier.file:
            self._note(self._place(document, None))

    def _note(self, place: Place) -> None:
        self._rows.places.append(place)
        # One that only names the id does not hide the one that the topic has it from.
        if place.version is not None or place.id not in self._settled:
            self._settled[place.id] = place

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
            self.duplicates += self._counts_as
        else:
            self.unchanged += self._counts_as

    def _settle(self, file: int) -> None:
        state = self._files[file]
        state.open -= 1
        self._close_if_done(file, state)

    def _close_if_done(self, file: int, state: _OpenFile) -> None:
        if state.open or not state.ended:
            return
        # Also of a file that has to be read again: the places that name it need it.
        self._rows.files.append(self._row(file, state, size=-1 if state.unsettled else state.found.size))
        del self._files[file]

    def _row(self, file: int, state: _OpenFile, size: int) -> FileRow:
        refusals = None if state.refusals is None else _to_json(state.refusals)
        # Where a document was refused, one that was there before may only have become unreadable.
        counts = state.refusals.counts if state.refusals else ()
        whole = size >= 0 and all(Reason(each).is_notice for each in counts)
        run = self._ledger.run if whole else 0
        return FileRow(file, state.folder, state.name, size, state.found.mtime_ns, self._rules, run, refusals)


def _to_json(refusals: Tally) -> str:
    return json.dumps([[each.reason, each.path, each.message, count] for each, count in refusals.weighted()])


def _from_json(text: str) -> list[tuple[Refusal, int]]:
    # Without a count where an earlier version of the program wrote it.
    return [
        (Refusal(Reason(reason), path, message), count[0] if count else 1)
        for reason, path, message, *count in json.loads(text)
    ]
