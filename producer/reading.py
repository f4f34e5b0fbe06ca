"""What a reader does: from a few files to chunks of documents that only lack their version.

It knows nothing of Kafka or of the ledger, so that it can run in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from producer.documents import MAX_METADATA_BYTES, PreparedDocument, check, prepare
from producer.refusals import Reason, Refusal, RefusedError
from producer.source import ReadingRules
from producer.sources import read
from producer.walk import FoundFile

__all__ = ["Chunk", "FileToRead", "Task", "read_task"]

_CHUNK_BYTES = 512 * 1024
_CHUNK_DOCUMENTS = 500
_MAX_MESSAGE_CHARS = 500


class FileToRead(NamedTuple):
    """A file under the number that it has in this run."""

    number: int
    found: FoundFile


Task = list[FileToRead]
"""Files that one reader reads, one after the other."""


@dataclass(slots=True)
class Chunk:
    """What was read of a task: documents, refusals, and which files ended, in this order.

    Attributes:
        documents: In the order of their files and lines.
        refusals: With the number of the file.
        ended: Numbers of the files of which nothing more comes.
        bytes_read: What was taken from the disk.
        last: Whether the task is done.
    """

    documents: list[PreparedDocument] = field(default_factory=list)
    refusals: list[tuple[int, Refusal]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    bytes_read: int = 0
    last: bool = False


def read_task(task: Task, rules: ReadingRules) -> Iterator[Chunk]:
    """Yield all of a task in chunks of half a megabyte; the last one, which may be empty, says so."""
    settings = rules.settings
    chunk = Chunk()
    size = 0
    taken: list[int] = []
    for number, found in task:
        for raw in read(found, taken.append, rules):
            if isinstance(raw, Refusal):
                chunk.refusals.append((number, raw))
                continue
            try:
                document = check(raw, settings.id_field, settings.metadata_field)
            except RefusedError as error:
                chunk.refusals.append((number, error.at(raw.where)))
                continue
            if document.left_out:
                told = (
                    f"over {MAX_METADATA_BYTES} bytes of metadata; left out: {', '.join(document.left_out)}"
                )
                notice = RefusedError(Reason.METADATA_CUT, told[:_MAX_MESSAGE_CHARS]).at(raw.where)
                chunk.refusals.append((number, notice))
            chunk.documents.append(prepare(document, number, raw.line, settings.segment_bytes))
            size += document.content_bytes
            if size > _CHUNK_BYTES or len(chunk.documents) >= _CHUNK_DOCUMENTS:
                chunk.bytes_read = sum(taken)
                yield chunk
                chunk = Chunk()
                size = 0
                taken.clear()
        chunk.ended.append(number)
    chunk.last = True
    chunk.bytes_read = sum(taken)
    yield chunk
