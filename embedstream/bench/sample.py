"""The texts that are measured with: a sample of one's own, or the Python language reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedstream.errors import UsageError

__all__ = ["Sample", "read_sample"]

# Enough for minutes on a fast GPU, and little beside a machine's memory.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts to measure with, none of them blank.

    Attributes:
        name: Where they come from.
        texts: One of each document.
        bytes: Of UTF-8 in all of them.
    """

    name: str
    texts: tuple[str, ...]
    bytes: int


def read_sample(path: Path | None) -> Sample:
    """Read what `produce` would of a path, up to 64 MiB; None is the reference that every CPython carries.

    Raises:
        UsageError: The path does not exist, is of no known kind, or holds no text.
    """
    if path is None:
        from pydoc_data.topics import topics

        texts = [topics[name].strip() for name in sorted(topics)]
        name = "the Python language reference"
    else:
        texts, name = _texts(path), str(path)
    kept: list[str] = []
    size = 0
    for text in texts:
        if text and not text.isspace() and size < MOST_BYTES:
            kept.append(text)
            size += len(text.encode())
    if not kept:
        raise UsageError(f"--sample {name} holds no text", "name files or a folder that `produce` would take")
    return Sample(name, tuple(kept), size)


def _texts(path: Path) -> list[str]:
    from embedstream.settings import ProducerSettings
    from producer.corpus import open_corpus
    from producer.documents import check
    from producer.refusals import Refusal, RefusedError
    from producer.sources import read

    corpus = open_corpus([path], ProducerSettings())
    texts: list[str] = []
    size = 0
    for batch in corpus.batches(lambda _: None):
        for file in batch.files:
            for raw in read(file, lambda _: None, corpus.rules):
                if isinstance(raw, Refusal):
                    continue
                try:
                    texts.append(check(raw).content)
                except RefusedError:
                    continue
                size += len(texts[-1])
                if size >= MOST_BYTES:
                    return texts
    return texts
