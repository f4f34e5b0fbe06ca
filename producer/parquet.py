"""Parquet: one document a row, its fields by the names of the columns. Needs the extra `parquet`.

A file is read row group by row group, in runs of rows that together take little memory, whatever the size of
a row group.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from embedstream.errors import ConfigError
from producer import source
from producer.compression import too_much
from producer.documents import RawDocument
from producer.refusals import Reason, Refusal, RefusedError
from producer.selection import ALL
from producer.source import ReadingRules, document_of
from producer.walk import FoundFile

if TYPE_CHECKING:
    from pyarrow import Array, Scalar
    from pyarrow.parquet import ParquetFile, RowGroupMetaData

__all__ = ["open_parquet", "read_parquet"]

# What a column's pages are read through: it bounds what a column chunk takes before it is decoded.
_BUFFER_BYTES = 1024 * 1024
# What a run of rows is meant to take decoded, and what it may take if a page of repeated values was made to
# take as much as it can.
_RUN_BYTES = 4 * 1024 * 1024
_WORST_RUN_BYTES = 256 * 1024 * 1024
_MOST_ROWS = 1024


def read_parquet(stream: BinaryIO, file: FoundFile, rules: ReadingRules) -> Iterator[RawDocument | Refusal]:
    """One document a row; only the columns that are wanted are read."""
    opened = open_parquet(stream)
    columns, missing = _columns(opened, rules)
    for name in missing:
        yield RefusedError(Reason.NO_METADATA_COLUMN, f"has no column `{name}`").at(file.path)
    selection = None if rules.selection == ALL else rules.selection
    number = content_bytes = 0
    for fields in _rows(opened, columns, rules.settings.content_field):
        number += 1
        if selection is not None and not selection.takes(file.relative, number):
            continue
        try:
            for value in fields.values():
                if isinstance(value, RefusedError):
                    raise value
            document = document_of(fields, file, rules, number)
            size = len(document.content) if isinstance(document.content, str) else 0
            if size > source.MAX_DOCUMENT_BYTES:
                raise RefusedError(
                    Reason.TOO_LARGE, f"it is longer than {source.MAX_DOCUMENT_BYTES} characters"
                )
        except RefusedError as error:
            yield error.at(f"{file.path}:{number}")
            continue
        content_bytes += size
        expanded = too_much(content_bytes, file.size, rules.settings.max_expansion)
        if expanded is not None:
            raise expanded
        yield document


def open_parquet(stream: BinaryIO) -> ParquetFile:
    """Read a file's footer.

    Raises:
        ConfigError: The extra is not installed.
        RefusedError: It is no Parquet.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ConfigError(
            "reading .parquet needs the extra `parquet`", "pip install 'embedstream[parquet]'"
        ) from None
    try:
        return ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (ArrowException, OSError) as error:
        raise _corrupt(error) from None


def _columns(opened: ParquetFile, rules: ReadingRules) -> tuple[list[str] | None, list[str]]:
    """Return the columns to read, None for all, and those for the metadata that are missing."""
    settings = rules.settings
    names = opened.schema_arrow.names
    for name in (settings.content_field, settings.id_field):
        if name is not None and name not in names:
            told = f"has no column `{name}`, it has {', '.join(f'`{each}`' for each in names[:20])}"
            raise RefusedError(Reason.NO_COLUMN, told)
    if not settings.metadata_field:
        return None, []
    wanted = {settings.content_field, settings.id_field or "id", "content_hash", *settings.metadata_field}
    missing = [name for name in settings.metadata_field if name not in names]
    return [name for name in names if name in wanted], missing


def _rows(opened: ParquetFile, columns: list[str] | None, content: str) -> Iterator[dict[str, object]]:
    """Yield the rows; in the place of a value that can't be read stands why."""
    from pyarrow import ArrowException

    try:
        for group in range(opened.num_row_groups):
            rows = _rows_at_once(opened.metadata.row_group(group))
            for batch in opened.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                names = batch.schema.names
                values = [_values(batch.column(n), name, content) for n, name in enumerate(names)]
                for row in zip(*values, strict=True):
                    yield dict(zip(names, row, strict=True))
    except ArrowException as error:
        raise _corrupt(error) from None
    except OSError as error:
        if error.errno is not None:
            raise  # of the file itself, not of what it holds
        raise _corrupt(error) from None


def _rows_at_once(group: RowGroupMetaData) -> int:
    """Return how many rows to decode at once.

    A value of a dictionary may be as large as its column chunk, and every row may be that value.
    """
    chunks = [group.column(index) for index in range(group.num_columns)]
    total = sum(chunk.total_uncompressed_size for chunk in chunks)
    usual = _RUN_BYTES * group.num_rows // max(total, 1)
    repeated = sum(c.total_uncompressed_size for c in chunks if c.has_dictionary_page)
    worst = _WORST_RUN_BYTES // max(repeated, 1)
    return int(max(1, min(usual, worst, _MOST_ROWS)))


def _values(column: Array, name: str, content: str) -> list[object]:
    """Return a column as JSON could hold it: at once, or where that fails value by value."""
    try:
        return [_plain(value, is_content=name == content) for value in column.to_pylist()]
    except (ValueError, OverflowError):
        return [_value(value, name, content) for value in column]


def _value(value: Scalar, name: str, content: str) -> object:
    """Return a value, as text where Python has nothing to hold it: nanoseconds, or the year 300,000."""
    from pyarrow import ArrowException, string
    from pyarrow.types import is_timestamp

    try:
        return _plain(value.as_py(), is_content=name == content)
    except UnicodeDecodeError as error:
        return RefusedError(Reason.NOT_UTF8, f"byte {error.start} of `{name}` is not UTF-8")
    except (ValueError, OverflowError):
        try:
            text = str(value.cast(string()).as_py())
            return text.replace(" ", "T", 1) if is_timestamp(value.type) else text
        except (ArrowException, ValueError) as error:
            return RefusedError(Reason.CORRUPT, f"`{name}` can't be read: {error}")


def _plain(value: Any, *, is_content: bool) -> object:
    """Return a value as JSON could hold it; nested ones as their JSON.

    Raises:
        UnicodeDecodeError: It is a content of bytes that are no text; of metadata those are escaped.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_content and isinstance(value, bytes):
        return value.decode()
    return json.loads(json.dumps(value, default=_scalar))


def _scalar(value: Any) -> object:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _corrupt(error: Exception) -> RefusedError:
    told = " ".join(str(error).split())
    return RefusedError(Reason.CORRUPT, f"it can't be read as Parquet: {told[:300]}")
