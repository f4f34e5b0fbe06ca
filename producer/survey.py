"""A look at a corpus: all of its sizes, and a spread sample of its documents.

A unit of the sample is a file of one document, a block of a megabyte of uncompressed JSON Lines, or the begin
of a compressed or Parquet file, whose middle can't be read alone.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from producer.corpus import Corpus
from producer.documents import RawDocument, ReadDocument, check
from producer.files import opened
from producer.json_sources import read_json_lines
from producer.parquet import open_parquet
from producer.refusals import Refusal, RefusedError
from producer.selection import number_of
from producer.source import MAX_DOCUMENT_BYTES
from producer.sources import MANY, kind_of, read
from producer.walk import FoundFile

__all__ = ["Kind", "Unit", "sample_of", "survey"]

_BLOCK_BYTES = 1024 * 1024
# Content that is read at least of a file whose middle can't be read alone, and how much of the file lies
# read but not decompressed at that moment, on average.
_LEAST_CONTENT = 2 * 1024 * 1024
_READ_AHEAD = 128 * 1024
_LEAST_UNITS = 30


@dataclass(slots=True)
class Kind:
    """The files of one kind.

    Attributes:
        name: Their suffix, with that of the compression.
        files: How many.
        bytes: Their size as they lie there.
        chosen: The sample: priority, file and block. The priority is the size over an even number between 0
            and 1 that the name decides: the larger a unit, the likelier it is to be high.
        chosen_bytes: What lies on the disk of it.
        threshold: The highest priority that is not in the sample, 0 if all are.
        content: How much to read of a file that is read from its begin.
    """

    name: str
    files: int = 0
    bytes: int = 0
    chosen: list[tuple[float, FoundFile, int]] = field(default_factory=list)
    chosen_bytes: int = 0
    threshold: float = 0.0
    content: int = _LEAST_CONTENT

    @property
    def is_single(self) -> bool:
        """Whether each of its files is one document."""
        return kind_of(self.name) not in MANY


@dataclass(slots=True)
class Unit:
    """What was read of one unit.

    Attributes:
        size: As it lies on the disk, in bytes.
        chance: How likely it was to be in the sample.
        share: How much of it was read.
        documents: What could be sent.
        refused: How many could not.
    """

    size: int
    chance: float
    share: float = 1.0
    documents: list[ReadDocument] = field(default_factory=list)
    refused: int = 0


def survey(corpus: Corpus, sample_bytes: int) -> tuple[list[Kind], list[Refusal]]:
    """Walk the corpus and choose a sample, the same every time.

    Args:
        corpus: What to look at; its own sample, if it has one, is not used.
        sample_bytes: About how much to read, as it lies on the disk.

    Returns:
        The kinds, each with its share of the sample, and the folders that can't be read.
    """
    kinds: dict[str, Kind] = {}
    refusals: list[Refusal] = []

    def on_refusal(refusal: Refusal) -> None:
        if not refusal.reason.is_notice and len(refusals) < 100:
            refusals.append(refusal)

    for batch in corpus.batches(on_refusal):
        for file in batch.files:
            kind = kinds.setdefault(_name(file), Kind(_name(file)))
            kind.files += 1
            kind.bytes += file.size
            for block in range(_blocks(file)):
                _offer(kind, file, block, sample_bytes)
    total = sum(kind.bytes for kind in kinds.values())
    for kind in kinds.values():
        share = sample_bytes * kind.bytes / max(total, 1)
        kind.chosen.sort(reverse=True)
        taken = kept = 0
        while kept < len(kind.chosen) and (taken < share or kept < _LEAST_UNITS):
            taken += _size(kind.chosen[kept][1], kind.chosen[kept][2])
            kept += 1
        if kept < len(kind.chosen):
            kind.threshold = kind.chosen[kept][0]
            del kind.chosen[kept:]
        kind.content = max(_LEAST_CONTENT, 2 * round(share) // max(kept, 1))
    return list(kinds.values()), refusals


def sample_of(kind: Kind, corpus: Corpus) -> Iterator[Unit]:
    """Read the sample of one kind."""
    for _, file, block in kind.chosen:
        size = _size(file, block)
        unit = Unit(size, min(1.0, size / kind.threshold) if kind.threshold else 1.0)
        taken: list[int] = []
        content = 0
        is_lines = _is_lines(file)
        for raw in _block(file, block, corpus) if is_lines else read(file, taken.append, corpus.rules):
            if isinstance(raw, Refusal):
                unit.refused += not raw.reason.is_notice
                continue
            try:
                settings = corpus.rules.settings
                document = check(raw, settings.id_field, settings.metadata_field)
            except RefusedError:
                unit.refused += 1
                continue
            unit.documents.append(document)
            content += document.content_bytes
            if content > kind.content and raw.line is not None and not is_lines:
                unit.share = _bytes_of_begin(file, raw.line, sum(taken)) / max(size, 1)
                break
        yield unit


def _offer(kind: Kind, file: FoundFile, block: int, sample_bytes: int) -> None:
    even = (number_of(file.relative, block) + 1) / 2**64
    heapq.heappush(kind.chosen, (_size(file, block) / even, file, block))
    kind.chosen_bytes += _size(file, block)
    while len(kind.chosen) > _LEAST_UNITS:
        _, last, last_block = kind.chosen[0]
        if kind.chosen_bytes - _size(last, last_block) < sample_bytes:
            return
        kind.threshold = max(kind.threshold, heapq.heappop(kind.chosen)[0])
        kind.chosen_bytes -= _size(last, last_block)


def _name(file: FoundFile) -> str:
    kind = kind_of(file.path)
    return file.path.lower()[file.path.lower().rindex(kind) :]


def _is_lines(file: FoundFile) -> bool:
    return file.path.lower().endswith((".jsonl", ".ndjson"))


def _blocks(file: FoundFile) -> int:
    return max(1, -(-file.size // _BLOCK_BYTES)) if _is_lines(file) else 1


def _size(file: FoundFile, block: int) -> int:
    return min(_BLOCK_BYTES, file.size - block * _BLOCK_BYTES) if _is_lines(file) else file.size


def _block(file: FoundFile, block: int, corpus: Corpus) -> Iterator[RawDocument | Refusal]:
    """Yield the documents whose lines begin within a block."""
    start = block * _BLOCK_BYTES
    lines = io.BytesIO()
    try:
        with opened(file.path, _ignore, in_order=False) as found:
            stream = io.BufferedReader(found.raw, 64 * 1024)
            if start:
                # From the byte before: a line that begins with the block is of this one.
                stream.seek(start - 1)
                stream.readline(MAX_DOCUMENT_BYTES)
            while stream.tell() < start + _BLOCK_BYTES and (line := stream.readline(MAX_DOCUMENT_BYTES)):
                lines.write(line)
    except OSError:
        return
    lines.seek(0)
    yield from read_json_lines(lines, file, corpus.rules)


def _bytes_of_begin(file: FoundFile, line: int, taken: int) -> int:
    """Return how much of a file its first lines or rows take, as it lies on the disk.

    Of Parquet not all columns may have been read: the share of the rows counts.
    """
    if kind_of(file.path) == ".parquet":
        with opened(file.path, _ignore, in_order=False) as found:
            rows = open_parquet(io.BufferedReader(found.raw)).metadata.num_rows
        return file.size * line // max(int(rows), 1)
    return max(1, min(taken - _READ_AHEAD, file.size))


def _ignore(_: int) -> None:
    pass
