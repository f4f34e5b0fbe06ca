"""The kinds of files that documents come from, and how any of them is read.

    for found in read(file, on_bytes=progress.read):
        print(found)  # a RawDocument or a Refusal

A new kind is a function as `producer.source.Source` describes it, and a suffix in `SOURCES`.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator

import zstandard

from embedstream.errors import ConfigError
from producer.compression import COMPRESSIONS, decompressed
from producer.documents import RawDocument
from producer.files import opened, read_at_once
from producer.json_sources import read_json, read_json_lines
from producer.parquet import read_parquet
from producer.refusals import Reason, Refusal, RefusedError, printable
from producer.s3 import is_uri
from producer.source import ReadingRules, Source
from producer.text_sources import read_markdown, read_text
from producer.walk import FoundFile

__all__ = ["MANY", "SOURCES", "is_known", "kind_of", "read"]

SOURCES: dict[str, Source] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".md": read_markdown,
    ".txt": read_text,
    ".parquet": read_parquet,
}
"""The sources by the suffix of the files that they read, which but for Parquet `.gz` or `.zst` may follow."""

MANY = frozenset({".jsonl", ".ndjson", ".parquet"})
"""The kinds of which one file holds many documents."""

# Its end is read before its begin, so that it can't be within another compression.
_SOUGHT_IN = frozenset({".parquet"})
# Read at once, such a file takes a third of the time that one takes which may turn out to be anything.
_AT_ONCE_BYTES = 256 * 1024
_DEFAULT_RULES = ReadingRules()


def is_known(name: str) -> bool:
    """Return whether there is a source for a file of this name."""
    return name.endswith(".json") or kind_of(name) in SOURCES


def kind_of(name: str) -> str:
    """Return the suffix that says what a file holds, in lower case and without that of its compression."""
    stem, dot, suffix = name.lower().rpartition(".")
    if dot + suffix in COMPRESSIONS:
        _, dot, suffix = stem.rpartition(".")
        if dot + suffix in _SOUGHT_IN:
            return ""
    return dot + suffix


def read(
    file: FoundFile, on_bytes: Callable[[int], None], rules: ReadingRules = _DEFAULT_RULES
) -> Iterator[RawDocument | Refusal]:
    """Yield the documents of one file, and a refusal for each that can't be read; a bad file raises nothing.

    Args:
        file: Of a kind that `is_known`.
        on_bytes: Told how many bytes were taken from the disk, each time that some were.
        rules: What the fields are called, the limits, and which documents are wanted.
    """
    try:
        yield from _read(file, on_bytes, rules)
    except RefusedError as error:
        yield error.at(file.path)
    except FileNotFoundError:
        yield Refusal(Reason.VANISHED, printable(file.path), "it was there when its folder was read")
    except EOFError:
        yield Refusal(Reason.TRUNCATED, printable(file.path), "the compressed data ends too early")
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        yield Refusal(Reason.CORRUPT, printable(file.path), f"it can't be decompressed: {error}")
    except ConfigError as error:
        yield RefusedError(Reason.EXTRA_MISSING, str(error)).at(file.path)
    except OSError as error:
        yield RefusedError(Reason.UNREADABLE, error.strerror or str(error)).at(file.path)


def _read(
    file: FoundFile, on_bytes: Callable[[int], None], rules: ReadingRules
) -> Iterator[RawDocument | Refusal]:
    kind = kind_of(file.path)
    source = SOURCES[kind]
    if kind not in MANY and not rules.selection.takes(file.relative):
        return
    if _is_small_and_plain(file, kind) and (data := read_at_once(file.path, file.size)) is not None:
        on_bytes(len(data))
        yield from source(io.BytesIO(data), file, rules)
        return
    with opened(file.path, on_bytes, in_order=kind not in _SOUGHT_IN) as found:
        if kind in _SOUGHT_IN:
            yield from source(io.BufferedReader(found.raw), file, rules)
            found.check_unchanged()
            return
        with decompressed(found.raw, file.path, rules.settings.max_expansion) as stream:
            if kind in MANY:
                yield from source(stream, file, rules)
                found.check_unchanged()
                return
            (document,) = source(stream, file, rules)
            found.check_unchanged()  # before it is passed on: it may be half old and half new
            yield document


def _is_small_and_plain(file: FoundFile, kind: str) -> bool:
    # The size of a file with a sidecar is that of both.
    return (
        0 < file.size <= _AT_ONCE_BYTES
        and kind not in MANY
        and not file.sidecar
        and file.path.endswith(kind)
        and not is_uri(file.path)
    )
