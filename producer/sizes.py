"""How large the documents of a file are, without parsing them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import zstandard

from embedstream.errors import ConfigError
from producer.compression import decompressed
from producer.files import opened
from producer.parquet import open_parquet
from producer.refusals import RefusedError
from producer.source import ReadingRules
from producer.sources import MANY, kind_of
from producer.walk import FoundFile

__all__ = ["sizes"]

_LINE_PART = 1024 * 1024


def sizes(file: FoundFile, rules: ReadingRules) -> Iterator[tuple[int | None, int]]:
    """Yield line and size in bytes of each document of a file; the line of a file of one is None.

    A file of one is as large as it lies there, a line as long as it is, a row as large as the average row.
    What can't be read ends the file: `read` says why.
    """
    kind = kind_of(file.path)
    if kind not in MANY:
        yield None, file.size
        return
    try:
        if kind == ".parquet":
            with opened(file.path, _ignore, in_order=False) as found:
                footer = open_parquet(io.BufferedReader(found.raw)).metadata
                groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
            each = sum(group.total_byte_size for group in groups) // max(footer.num_rows, 1)
            yield from ((row, each) for row in range(1, footer.num_rows + 1))
        else:
            yield from _line_sizes(file, rules)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, RefusedError, ConfigError):
        return


def _line_sizes(file: FoundFile, rules: ReadingRules) -> Iterator[tuple[int, int]]:
    with (
        opened(file.path, _ignore) as found,
        decompressed(found.raw, file.path, rules.settings.max_expansion) as stream,
    ):
        number = 0
        while part := stream.readline(_LINE_PART):
            number += 1
            size, blank = len(part), part.isspace()
            while not part.endswith(b"\n") and (part := stream.readline(_LINE_PART)):
                size, blank = size + len(part), blank and part.isspace()
            if not blank:
                yield number, size


def _ignore(_: int) -> None:
    pass
