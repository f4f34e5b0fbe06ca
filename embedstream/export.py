"""Takes the newest passages out of Kafka: into Parquet files or a Qdrant collection.

    done = export(settings, "vectors/", Options())
    print(*done.lines())

An export is of one moment: that of the topics' end offsets when it began. Started again after whatever ended
it, it goes on where it was, and still exports that moment: beside what it writes it keeps a manifest, and
until it is done the file in which `NewestVersions` found what counts (some 90 bytes a document).
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from embedstream.errors import ConfigError, EmbedstreamError, TryAgainError, UsageError
from embedstream.export_manifest import Manifest
from embedstream.export_parquet import ParquetTarget
from embedstream.export_qdrant import QdrantTarget
from embedstream.newest import Choice, NewestVersions
from embedstream.parquet_files import MANIFEST, Precision
from embedstream.settings import Settings
from embedstream.snapshot import Snapshot, SnapshotReader, take_snapshot

__all__ = ["ROWS_PER_FILE", "VERSIONS", "Exported", "Options", "export"]

ROWS_PER_FILE = 250_000
"""By default: a gigabyte of vectors with 1024 dimensions in fp32, which is what a kill costs at most."""
VERSIONS = ".versions.sqlite"
"""Name of the file in which an export that is not done keeps what it found of the versions."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        fingerprint: Of the model whose embeddings are meant; None takes the topic's one model.
        precision: What vectors are stored in.
        rows_per_file: Most rows of a file, for a folder.
    """

    fingerprint: str | None = None
    precision: Precision = "fp32"
    rows_per_file: int = ROWS_PER_FILE


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        to: As it was asked for.
        choice: Of which documents, and which were left out.
        rows: Passages written, those of earlier starts of the same export included.
        files: Names of the files.
        left_out: Output records left out beside those of old versions, by reason; see `LEFT_OUT`.
        resumed: Whether an earlier start had done a part.
        seconds: How long this start took.
    """

    to: str
    snapshot: Snapshot
    precision: Precision
    choice: Choice
    rows: int
    files: tuple[str, ...]
    left_out: dict[str, int]
    resumed: bool
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        snapshot = self.snapshot
        return {
            "to": self.to,
            "topic": snapshot.embeddings_topic,
            "model": snapshot.model,
            "model_fingerprint": snapshot.model_fingerprint,
            "dim": snapshot.dim,
            "precision": self.precision,
            "taken_at": snapshot.taken_at,
            "rows": self.rows,
            "files": list(self.files),
            **{name: number for name, number in asdict(self.choice).items() if name != "passages"},
            "left_out": self.left_out,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        choice, snapshot = self.choice, self.snapshot
        yield (
            f"{self.rows:,} passages of {choice.documents:,} documents from {snapshot.embeddings_topic} to"
            f" {self.to}, {snapshot.dim} dimensions in {self.precision}, of {snapshot.model}"
            f" ({snapshot.model_fingerprint}), in {self.seconds:,.1f} s"
        )
        for number, what in (
            (choice.deleted, "documents are left out: they were deleted"),
            (choice.behind, "documents are there in an older version: the newest is not all embedded"),
            (choice.absent, "documents are left out: no version of them is all embedded"),
            (self.left_out.get("repeated", 0), "records of output are there again, and exported once"),
            (self.left_out.get("other_models", 0), "records of output are of other models, and left out"),
            (
                self.left_out.get("other_topics", 0),
                f"records of output are left out: they come from another topic than"
                f" {snapshot.documents_topic}",
            ),
            (self.left_out.get("unreadable", 0), "records can't be read: `embedstream verify` names them"),
        ):
            if number:
                yield f"  {number:,} {what}"


class Target(Protocol):
    """Where an export goes to.

    Attributes:
        state: The folder of its manifest, and of what it needs until it is done.
        rows_per_file: Most rows of a file; 0 where there are no files, or one.
    """

    state: Path
    rows_per_file: int

    def check(self, begun: Manifest | None) -> None:
        """See that an export can begin, or go on from its manifest, before anything is read."""

    def write(self, reader: SnapshotReader, manifest: Manifest) -> Manifest:
        """Write what is left, save the manifest as rows are written for good, and return the last one."""

    def finish(self) -> None:
        """Make the export appear where it was asked for, and remove what is no longer needed."""


def export(settings: Settings, to: str, options: Options) -> Exported:
    """Write the newest passages, or what is left of them after an earlier start.

    Args:
        settings: `kafka` and `export` are used.
        to: A path that ends in .parquet, a folder, or qdrant://HOST:PORT/COLLECTION.
        options: How.

    Raises:
        UsageError: `to` makes no sense, or holds something else.
        ConfigError: The topic is not as it was, something is not installed, or a path can't be written.
        ServiceUnavailableError: No broker, or no Qdrant, answers.
        TryAgainError: The disk is full, or another export writes to the same place.
    """
    began = time.monotonic()
    target = _target(settings, to, options)
    with _explained(to):
        begun = Manifest.load(target.state / MANIFEST)
        target.check(begun)
        manifest = begun or Manifest(
            take_snapshot(settings.kafka, options.fingerprint), options.precision, target.rows_per_file
        )
        _check_same(settings, to, options, manifest, target.rows_per_file)
        target.state.mkdir(parents=True, exist_ok=True)
        with NewestVersions(target.state / VERSIONS) as newest:
            manifest.save(target.state / MANIFEST)
            alone = options.fingerprint is None
            reader = SnapshotReader(settings.kafka, manifest.snapshot, newest, is_only_model=alone)
            choice, left_out = reader.choose(), reader.left_out()
            _check_source(choice, left_out, manifest.snapshot)
            done = target.write(reader, manifest)
        if done.rows != choice.passages:
            raise RuntimeError(f"{done.rows} rows were written, and {choice.passages} passages count")
        target.finish()
    return Exported(
        to=to,
        snapshot=done.snapshot,
        precision=done.precision,
        choice=choice,
        rows=done.rows,
        files=tuple(each.name for each in done.files),
        left_out=left_out,
        resumed=begun is not None,
        seconds=time.monotonic() - began,
    )


def _target(settings: Settings, to: str, options: Options) -> Target:
    if "://" in to:
        return QdrantTarget(
            to,
            settings.export.qdrant_api_key,
            options.precision,
            allow_plaintext=settings.kafka.allow_plaintext,
        )
    return ParquetTarget(Path(to).expanduser(), options.rows_per_file)


def _check_same(
    settings: Settings, to: str, options: Options, manifest: Manifest, rows_per_file: int
) -> None:
    """See that an export that was begun is the one that is asked for."""
    kafka, snapshot = settings.kafka, manifest.snapshot
    asked_fingerprint = options.fingerprint or snapshot.model_fingerprint
    for flag, begun, asked in (
        ("--embeddings-topic", snapshot.embeddings_topic, kafka.embeddings_topic),
        ("--dead-letters-topic", snapshot.dead_letters_topic, kafka.dead_letters_topic),
        ("--documents-topic", snapshot.documents_topic, kafka.documents_topic),
        ("--fingerprint", snapshot.model_fingerprint, asked_fingerprint),
        ("--precision", manifest.precision, options.precision),
        ("--rows-per-file", manifest.rows_per_file, rows_per_file),
    ):
        if begun != asked:
            raise UsageError(
                f"--to {to} holds a part of another export: that one had {flag} {begun}, not {asked}",
                "give the flags of that one to go on with it, or another --to",
            )


def _check_source(choice: Choice, left_out: dict[str, int], snapshot: Snapshot) -> None:
    if not choice.documents and left_out["other_topics"]:
        raise ConfigError(
            f"{snapshot.embeddings_topic} holds no embeddings of documents from {snapshot.documents_topic}",
            "name the topic that they come from with --documents-topic",
        )


@contextmanager
def _explained(to: str) -> Iterator[None]:
    """Turn what goes wrong with files into a line that says what to do."""
    try:
        yield
    except EmbedstreamError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise _full(to, reason) from None
        raise ConfigError(f"--to {to} can't be written ({reason})", "name another place") from None
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise TryAgainError(
                f"another export writes to {to}", "wait for its end, or name another place"
            ) from None
        if "full" in str(error) or "disk I/O" in str(error):
            raise _full(to, str(error)) from None
        raise ConfigError(f"--to {to}: {VERSIONS} can't be used ({error})", "name another place") from None


def _full(to: str, reason: str) -> TryAgainError:
    return TryAgainError(
        f"--to {to} can't be written any further ({reason})",
        "make room, then run the same command again: it goes on where it was",
    )
