"""Exports into Parquet: one file, or a folder of files with a manifest."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from embedstream.errors import UsageError
from embedstream.export_manifest import Manifest
from embedstream.logs import get_logger
from embedstream.parquet_files import MANIFEST, FileWriter, Layout, require_parquet
from embedstream.search import VectorSource
from embedstream.snapshot import Snapshot, SnapshotReader

__all__ = ["ParquetTarget"]

_TELL_SECONDS = 10.0

_log = get_logger("export")


class ParquetTarget:
    """A file, where the path ends in .parquet; else a folder.

    A file can't be appended to, so an export into one is written again from its beginning after a kill. It is
    written in a folder beside it, where the manifest is until then, and appears when it is whole.
    """

    def __init__(self, path: Path, rows_per_file: int) -> None:
        """Look at nothing yet.

        Raises:
            UsageError: The path is one of a file and there is a folder, or the other way round.
            ConfigError: pyarrow is not installed.
        """
        self._path = path
        self._is_file = path.suffix == ".parquet"
        if path.exists() and path.is_dir() == self._is_file:
            what = "a folder" if self._is_file else "a file"
            raise UsageError(f"--to {path} is {what}", "name a folder, or a file that ends in .parquet")
        require_parquet()
        self.rows_per_file = 0 if self._is_file else rows_per_file
        self.state = path.with_name(path.name + ".export") if self._is_file else path

    def check(self, begun: Manifest | None) -> None:
        """See that nothing is there that is not of this export.

        Raises:
            UsageError: There is, or a file of it is gone.
        """
        if self._is_file:
            taken = begun is None and self._path.exists()
        elif begun is not None:
            taken = begun.complete
        else:
            taken = self._path.is_dir() and any(
                not each.name.startswith(".") for each in self._path.iterdir()
            )
        if taken:
            what = "is a whole export" if begun is not None else "exists"
            raise UsageError(f"--to {self._path} {what}", "remove it, or name another place")
        for each in begun.files if begun is not None and not self._is_file else ():
            if not (self.state / each.name).is_file():
                raise UsageError(f"--to {self._path} lacks {each.name}", "remove it, and export anew")

    def write(self, reader: SnapshotReader, manifest: Manifest) -> Manifest:
        """Write file after file, saving the manifest after each.

        Raises:
            OSError: A file can't be written.
        """
        if manifest.complete:
            return manifest
        layout = _layout(manifest)
        file = self.state / MANIFEST
        told = time.monotonic()
        with ExitStack() as stack:
            writer: FileWriter | None = None
            position = (manifest.partition, manifest.offset - 1)
            for position, embedding in reader.passages(manifest.partition, manifest.offset):
                if writer is None:
                    writer = stack.enter_context(FileWriter(self._next(manifest), layout))
                writer.add(embedding)
                if writer.rows == self.rows_per_file:
                    manifest = self._finished(writer, manifest, position)
                    manifest.save(file)
                    writer = None
                if time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    _log.info("exporting", rows=manifest.rows + (writer.rows if writer else 0))
            # An export without a row has a file all the same, which says what was exported.
            if writer is None and not manifest.files:
                writer = stack.enter_context(FileWriter(self._next(manifest), layout))
            if writer is not None:
                manifest = self._finished(writer, manifest, position)
            manifest = replace(manifest, complete=True)
            manifest.save(file)
        return manifest

    def finish(self) -> None:
        """Move a single file to its place; remove what only an unfinished export needs.

        Raises:
            OSError: It can't be moved.
        """
        if not self._is_file:
            for each in self.state.glob(".versions.sqlite*"):
                each.unlink()
            return
        whole = self.state / _name(0)
        if whole.exists():
            whole.replace(self._path)
        shutil.rmtree(self.state)

    def _next(self, manifest: Manifest) -> Path:
        return self.state / _name(len(manifest.files))

    def _finished(self, writer: FileWriter, manifest: Manifest, position: tuple[int, int]) -> Manifest:
        writer.finish()
        return manifest.after(writer.rows, position, file=self._next(manifest).name)


def _name(number: int) -> str:
    return f"part-{number:05}.parquet"


def _layout(manifest: Manifest) -> Layout:
    snapshot: Snapshot = manifest.snapshot
    source = VectorSource(snapshot.model, snapshot.model_fingerprint, snapshot.dim)
    notes = {"topic": snapshot.embeddings_topic, "taken_at": str(snapshot.taken_at)}
    return Layout(source, manifest.precision, notes)
