"""A corpus as a run sees it: what it was told to read, less what filters and samples leave out.

corpus = open_corpus(["corpus"], settings.producer)
for batch in corpus.batches(on_refusal=print):
    for file in batch.files:
        for found in read(file, on_bytes=print, rules=corpus.rules):
            ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedstream.settings import ProducerSettings
from producer import s3
from producer.filters import Filter
from producer.refusals import Refusal, printable
from producer.selection import ALL, BoundFinder, Selection, number_of
from producer.sizes import sizes
from producer.source import ReadingRules
from producer.sources import MANY, SOURCES, is_known, kind_of
from producer.walk import Batch, check_paths, walk

__all__ = ["Corpus", "open_corpus", "root_name"]


@dataclass(frozen=True)
class Corpus:
    """What a run reads.

    Attributes:
        paths: Files and folders, absolute, and `s3://` URIs: whatever folder a run is started from, the
            ledger and the records' `source` name a file in the same way.
        rules: How documents are made of files, and which of them.
    """

    paths: tuple[str, ...]
    rules: ReadingRules

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out by a filter, a sample or a limit."""
        return not self._filter and self.rules.selection == ALL

    def batches(self, on_refusal: Callable[[Refusal], None]) -> Iterator[Batch]:
        """Yield the files, a folder's batch at a time; see `producer.walk`.

        A file of one document that the sample leaves out is not among them.
        """
        selection = self.rules.selection
        for batch in walk(self.paths, is_known, on_refusal, self._filter):
            if selection != ALL:
                files = [f for f in batch.files if kind_of(f.path) in MANY or selection.takes(f.relative)]
                batch = batch._replace(files=files)
            if batch.files:
                yield batch

    @property
    def _filter(self) -> Filter:
        return Filter(self.rules.settings.include, self.rules.settings.exclude)


def open_corpus(paths: Sequence[str | Path], settings: ProducerSettings) -> Corpus:
    """Look at the paths, and choose the sample where one is asked for: that takes a walk of its own.

    Raises:
        UsageError: A path does not exist or is of no known kind, or nothing is named.
        ConfigError: A path lies in S3, and the extra or the credentials are missing.
        ServiceUnavailableError: S3 does not answer.
    """
    check_paths(paths, is_known, SOURCES)
    # Not resolved: where a link leads to is another matter than where it lies.
    absolute = (path if s3.is_uri(path) else os.path.abspath(path) for path in map(str, paths))  # noqa: PTH100
    # One that is named twice is walked once: the ledger has one row for each file of a root.
    corpus = Corpus(tuple({root_name(path): path for path in absolute}.values()), ReadingRules(settings))
    if settings.sample is None and settings.limit is None:
        return corpus
    return Corpus(corpus.paths, ReadingRules(settings, _select(corpus)))


def root_name(path: str) -> str:
    """Return one of a corpus's paths as text, the same with and without a `/` at its end."""
    return printable(path).rstrip("/")


def _select(corpus: Corpus) -> Selection:
    settings = corpus.rules.settings
    finders = []
    if settings.sample is not None:
        finders.append((BoundFinder(settings.sample), True))
    if settings.limit is not None:
        finders.append((BoundFinder(settings.limit), False))
    for batch in corpus.batches(lambda _: None):
        for file in batch.files:
            for line, size in sizes(file, corpus.rules):
                number = number_of(file.relative, line)
                for finder, by_bytes in finders:
                    finder.add(number, size if by_bytes else 1)
    return Selection(min(finder.below() for finder, _ in finders))
