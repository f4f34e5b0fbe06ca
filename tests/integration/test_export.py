"""Exports of output topics that were written by hand, on the embedded broker, read with other programs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from embedstream.aliases import ALIASES_TOPIC, Alias
from embedstream.errors import ConfigError, TryAgainError, UsageError
from embedstream.export import Exported, Options, export
from embedstream.export_manifest import Manifest
from embedstream.export_parquet import ParquetTarget
from embedstream.find import find
from embedstream.kafka import make_admin, make_producer
from embedstream.newest import NewestVersions
from embedstream.parquet_files import FileWriter
from embedstream.settings import Settings
from tests.brokers import BrokerHandle
from tests.cli import clean_environment, run_cli, start_cli
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.outputs import Outputs, newest_rows


@pytest.fixture
def outputs(embedded_broker: BrokerHandle) -> Outputs:
    """Topics without a record."""
    return Outputs(make_topics(embedded_broker.bootstrap))


@pytest.fixture
def messy(outputs: Outputs) -> Outputs:
    """Every case that readers must tell apart, and enough documents for several files."""
    for number in range(20):
        outputs.embed(f"plain {number}", passages=1 + number % 7)
    outputs.embed("changed", version=1)
    outputs.embed("changed", version=2, passages=4)
    outputs.embed("late", version=5, passages=3)
    outputs.embed("late", version=4, passages=5)
    outputs.embed("gone", version=1)
    outputs.delete("gone", 2)
    outputs.embed("back", version=1)
    outputs.delete("back", 2)
    outputs.embed("back", version=3)
    outputs.embed("growing", version=1)
    outputs.embed("growing", version=2, segment=(0, 2))
    outputs.embed("half", version=1, passages=3, only=[0, 2])
    outputs.embed("large", version=1, segment=(0, 3))
    outputs.bury("large", 1, segment=(1, 3))
    outputs.embed("large", version=1, segment=(2, 3))
    outputs.bury("never", 1)
    _, offset = outputs.embed("twice", passages=6, only=range(4))
    outputs.embed("between", passages=2)
    outputs.embed("twice", passages=6, offset=offset)
    outputs.flush()
    return outputs


def settings(topics: Topics) -> Settings:
    return Settings(kafka=topics.kafka)


def expected(topics: Topics) -> dict[str, dict[str, Any]]:
    return newest_rows(
        read_all(topics.bootstrap, topics.embeddings), read_all(topics.bootstrap, topics.dead_letters)
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an export, read with pyarrow."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def assert_same(rows: list[dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
    assert sorted(row["id"] for row in rows) == sorted(wanted), "a row is missing, double or too many"
    for row in rows:
        record = wanted[row["id"]]
        assert np.float32(row["vector"]).tobytes() == np.float32(record["vector"]).tobytes()
        for name in ("document_id", "content_hash", "start_char", "end_char", "text", "token_count"):
            assert row[name] == record[name]
        assert row["document_version"] == record["document_version"]
        assert row["embedded_at"] == record["embedded_at"]
        assert dict(row["metadata"]) == record["metadata"]
        for part in ("segment", "passage"):
            assert (row[f"{part}_index"], row[f"{part}_count"]) == tuple(record[part].values())
        assert (row["source_partition"], row["source_offset"]) == (
            record["source"]["partition"],
            record["source"]["offset"],
        )


def export_all(topics: Topics, to: Path | str, **options: Any) -> Exported:
    return export(settings(topics), str(to), Options(**options))


def test_a_folder_holds_the_newest_version_of_each_document_bit_for_bit(
    messy: Outputs, tmp_path: Path
) -> None:
    wanted = expected(messy.topics)
    done = export_all(messy.topics, tmp_path / "out", rows_per_file=10)
    rows = rows_of(tmp_path / "out")
    assert_same(rows, wanted)
    documents = {row["document_id"] for row in rows}
    assert {"changed", "late", "back", "growing", "large", "twice", "between"} <= documents
    assert not documents & {"gone", "half", "never"}
    assert done.rows == len(rows)
    assert (done.choice.documents, done.choice.deleted) == (len(documents), 1)
    assert (done.choice.behind, done.choice.absent) == (1, 2)
    assert done.left_out == {"repeated": 4, "other_models": 0, "other_topics": 0, "unreadable": 0}
    names = sorted(each.name for each in (tmp_path / "out").iterdir())
    count = -(-len(rows) // 10)
    assert names == ["manifest.json", *(f"part-{number:05}.parquet" for number in range(count))]
    assert [pq.read_metadata(tmp_path / "out" / name).num_rows for name in names[1:-1]] == [10] * (count - 1)


def test_duckdb_reads_the_same_vectors(messy: Outputs, tmp_path: Path) -> None:
    export_all(messy.topics, tmp_path / "out", rows_per_file=10)
    wanted = expected(messy.topics)
    query = "SELECT id, vector, metadata, epoch_ms(document_version) FROM read_parquet(?)"
    found = duckdb.execute(query, [str(tmp_path / "out" / "*.parquet")]).fetchall()
    assert {row[0] for row in found} == set(wanted)
    assert len(found) == len(wanted)
    for name, vector, metadata, version in found:
        assert np.float32(vector).tobytes() == np.float32(wanted[name]["vector"]).tobytes()
        assert metadata == wanted[name]["metadata"]
        assert version == wanted[name]["document_version"].timestamp() * 1000


def test_one_file_says_which_model_its_vectors_are_of(messy: Outputs, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    export_all(messy.topics, path, rows_per_file=10)
    assert_same(rows_of(path), expected(messy.topics))
    notes = pq.read_schema(path).metadata
    assert notes[b"embedstream.model"] == b"test"
    assert notes[b"embedstream.model_fingerprint"] == b"f00d"
    assert notes[b"embedstream.dim"] == b"8"
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"], "what it needed meanwhile is gone"
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(UsageError, match="exists"):
        export_all(messy.topics, path)


@pytest.mark.slow
def test_half_precision_rounds_to_the_nearest(messy: Outputs, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    export_all(messy.topics, path, precision="fp16")
    wanted = expected(messy.topics)
    assert pq.read_schema(path).field("vector").type.value_type == "halffloat"
    query = "SELECT id, vector FROM read_parquet(?)"
    for rows in (
        [(row["id"], row["vector"]) for row in rows_of(path)],
        duckdb.execute(query, [str(path)]).fetchall(),
    ):
        assert len(rows) == len(wanted)
        for name, vector in rows:
            assert np.array_equal(np.float16(vector), np.float32(wanted[name]["vector"]).astype(np.float16))


class Crash(Exception):
    """Stands for whatever ends the process there."""


def crash_at(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its call of that number, from 0, ends the process."""
    number = -1

    def counted(*args: Any) -> Any:
        nonlocal number
        number += 1
        if number == call:
            raise Crash
        return real(*args)

    return counted


@pytest.mark.parametrize("target", ["out", pytest.param("out.parquet", marks=pytest.mark.slow)])
def test_an_export_that_ended_anywhere_goes_on_with_what_it_froze(
    messy: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    wanted = expected(messy.topics)
    monkeypatch.setattr("embedstream.snapshot._SAVE_EVERY", 7)
    for kind, method, call in [
        (NewestVersions, "add_passage", 0),
        (NewestVersions, "add_passage", 30),
        (NewestVersions, "add_passage", 25),
        (FileWriter, "add", 0),
        (FileWriter, "add", 25),
        (FileWriter, "finish", 0),
        (Manifest, "save", 1),
        (Manifest, "save", 2 if target == "out" else 1),
        (ParquetTarget, "finish", 0),
    ]:
        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(kind, method, crash_at(call, getattr(kind, method)))
            export_all(messy.topics, tmp_path / target, rows_per_file=10)
        # What comes after the first start is not of this export.
        messy.embed("plain 3", version=9)
        messy.embed("new")
        messy.flush()
    if target == "out":
        with pytest.raises(UsageError, match="is a whole export"):
            export_all(messy.topics, tmp_path / target, rows_per_file=10)
    else:
        assert export_all(messy.topics, tmp_path / target).resumed
    assert_same(rows_of(tmp_path / target), wanted)


@pytest.mark.slow
def test_an_export_that_is_killed_goes_on_without_a_row_missing_or_double(
    outputs: Outputs, tmp_path: Path
) -> None:
    for number in range(600):
        outputs.embed(f"document {number}", passages=30)
    outputs.flush()
    wanted = expected(outputs.topics)
    to, manifest = tmp_path / "out", tmp_path / "out" / "manifest.json"
    command = ["export", "--to", str(to), *outputs.topics.flags, "--rows-per-file", "500", "--json"]
    killed = start_cli(*command, log=tmp_path / "first.log")
    try:
        wait_until(lambda: manifest.exists() and len(json.loads(manifest.read_text())["files"]) >= 2)
    finally:
        killed.kill()
        killed.wait()
    half = json.loads(manifest.read_text())
    assert not half["complete"], "killed too late to show anything"
    outputs.embed("document 0", version=2)
    outputs.flush()
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["resumed"]
    assert told["rows"] == len(wanted) == 18_000
    assert half["rows"] >= 1000
    assert_same(rows_of(to), wanted)


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_the_export_goes_on(outputs: Outputs, tmp_path: Path) -> None:
    outputs.dim = 256
    outputs.embed("large", passages=600)
    outputs.flush()
    to = tmp_path / "out"
    command = ["export", "--to", str(to), *outputs.topics.flags, "--rows-per-file", "400"]
    # No file may grow beyond this, which ends a write as a full disk does.
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
    done = subprocess.run(
        [sys.executable, "-c", f"{limit} from embedstream.cli import main; main()", *command],
        env=clean_environment({"PYTHONPATH": os.pathsep.join(sys.path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert f"--to {to} can't be written any further (File too large): make room" in line
    assert "Traceback" not in done.stderr
    assert not list(to.glob("*.partial")), "what was begun gives its room back"
    again = run_cli(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed"]
    assert_same(rows_of(to), expected(outputs.topics))


@pytest.mark.slow
def test_two_exports_into_one_place_do_not_meet(messy: Outputs, tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir()
    with NewestVersions(to / ".versions.sqlite"), pytest.raises(TryAgainError, match="another export"):
        export_all(messy.topics, to)


def test_flags_that_differ_from_those_of_the_first_start_are_refused(
    messy: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(FileWriter, "add", crash_at(3, FileWriter.add))
        export_all(messy.topics, tmp_path, rows_per_file=10)
    for options, flag in (
        ({"rows_per_file": 11}, "--rows-per-file 10, not 11"),
        ({"rows_per_file": 10, "precision": "fp16"}, "--precision fp32, not fp16"),
        ({"rows_per_file": 10, "fingerprint": "beef"}, "--fingerprint f00d, not beef"),
    ):
        with pytest.raises(UsageError, match=flag):
            export_all(messy.topics, tmp_path, **options)


def test_a_place_that_holds_something_else_is_refused(messy: Outputs, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists: remove it, or name another place"):
        export_all(messy.topics, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        export_all(messy.topics, tmp_path / "note.txt")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export_all(messy.topics, tmp_path / "folder.parquet")
    with pytest.raises(ConfigError, match="can't be written"):
        export_all(messy.topics, tmp_path / "note.txt" / "below")
    assert (tmp_path / "note.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_topic_that_was_made_anew_is_refused(
    messy: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(FileWriter, "add", crash_at(3, FileWriter.add))
        export_all(messy.topics, tmp_path / "out")
    name = messy.topics.embeddings
    admin = make_admin(messy.topics.kafka)
    admin.delete_topics([name])[name].result()
    admin.create_topics([NewTopic(name, num_partitions=3, replication_factor=1)])[name].result()
    with pytest.raises(ConfigError, match="is not the topic that this was begun with"):
        export_all(messy.topics, tmp_path / "out")


@pytest.mark.slow
def test_a_topic_with_several_models_needs_one_named(messy: Outputs, tmp_path: Path) -> None:
    other = Outputs(messy.topics, dim=4, model="other", fingerprint="beef")
    other.embed("plain 1", passages=3)
    other.flush()
    with pytest.raises(ConfigError, match=r"several models: test \(f00d\), other \(beef\).*--fingerprint"):
        export_all(messy.topics, tmp_path / "any")
    done = export_all(messy.topics, tmp_path / "beef", fingerprint="beef")
    assert_same(
        rows_of(tmp_path / "beef"),
        newest_rows(read_all(messy.topics.bootstrap, messy.topics.embeddings), [], "beef"),
    )
    assert (done.rows, done.snapshot.dim, done.snapshot.model) == (3, 4, "other")
    assert done.left_out["other_models"] > 100
    with pytest.raises(ConfigError, match="no embeddings of the model fingerprint absent"):
        export_all(messy.topics, tmp_path / "absent", fingerprint="absent")


@pytest.mark.slow
def test_embeddings_of_another_documents_topic_are_left_out_and_counted(
    messy: Outputs, tmp_path: Path
) -> None:
    wanted = expected(messy.topics)
    messy.embed("foreign", passages=3, topic="elsewhere")
    messy.producer.produce(messy.topics.embeddings, b"no embedding")
    messy.flush()
    done = export_all(messy.topics, tmp_path / "out")
    assert_same(rows_of(tmp_path / "out"), wanted)
    assert done.left_out == {"repeated": 4, "other_models": 0, "other_topics": 3, "unreadable": 1}
    assert any("3 records of output are left out" in line for line in done.lines())
    wrong = settings(messy.topics).kafka.model_copy(update={"documents_topic": "absent"})
    with pytest.raises(ConfigError, match="--documents-topic"):
        export(Settings(kafka=wrong), str(tmp_path / "none"), Options())


@pytest.mark.slow
def test_an_export_of_nothing_but_deleted_documents_is_an_empty_file(
    outputs: Outputs, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no embeddings"):
        export_all(outputs.topics, tmp_path / "none")
    outputs.embed("gone")
    outputs.delete("gone", 2)
    outputs.flush()
    assert export_all(outputs.topics, tmp_path / "out").choice.deleted == 1
    assert rows_of(tmp_path / "out") == []


@pytest.mark.slow
def test_an_open_transaction_is_not_waited_for_and_not_exported(messy: Outputs, tmp_path: Path) -> None:
    wanted = expected(messy.topics)
    closed = messy.producer
    messy.producer = make_producer(messy.topics.kafka, transactional_id=uuid.uuid4().hex)
    messy.producer.init_transactions(30)
    messy.producer.begin_transaction()
    messy.embed("open")
    messy.flush()
    try:
        export_all(messy.topics, tmp_path / "out")
    finally:
        messy.producer.abort_transaction()
        messy.producer = closed
    assert_same(rows_of(tmp_path / "out"), wanted)


@pytest.mark.slow
def test_an_alias_stands_for_a_topic_and_a_model(messy: Outputs, tmp_path: Path) -> None:
    topics, name = messy.topics, f"live-{uuid.uuid4().hex[:8]}"
    command = ["export", *("--bootstrap-servers", topics.bootstrap)]
    command += ["--dead-letters-topic", topics.dead_letters, "--json"]
    done = run_cli(*command, "--to", tmp_path / "out", "--alias", name)
    assert done.returncode == 78
    assert f"--alias {name} does not exist" in done.stderr
    alias = Alias(topics.embeddings, "test", "f00d", 8, topics.documents, "g", {0: 1}, 1)
    gone = replace(alias, topic="absent")
    make_aliases_topic(topics)
    put = {name: alias.to_value(), f"{name}-gone": gone.to_value(), f"{name}-bad": b"{}"}
    for key, value in put.items():
        messy.producer.produce(ALIASES_TOPIC, value, key.encode())
    messy.flush()
    done = run_cli(*command, "--to", tmp_path / "out", "--alias", name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["topic"] == topics.embeddings
    assert_same(rows_of(tmp_path / "out"), expected(topics))
    for wrong, told in (("gone", "stands for, 'absent' does not exist"), ("bad", "can't be read")):
        done = run_cli(*command, "--to", tmp_path / wrong, "--alias", f"{name}-{wrong}")
        assert done.returncode == 78
        assert told in done.stderr


def make_aliases_topic(topics: Topics) -> None:
    made = make_admin(topics.kafka).create_topics([NewTopic(ALIASES_TOPIC, 1, 1)])
    with contextlib.suppress(KafkaException):
        made[ALIASES_TOPIC].result()


def test_a_search_in_what_is_no_whole_export_is_refused(
    messy: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made, told in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "is no export"),
        (tmp_path / "half", "is not whole: run the same"),
        (tmp_path / "foreign.parquet", "does not say which model"),
        (tmp_path / "text.parquet", "can't be read"),
    ):
        if told.startswith("is not whole"):
            with monkeypatch.context() as patch, pytest.raises(Crash):
                patch.setattr(FileWriter, "add", crash_at(12, FileWriter.add))
                export_all(messy.topics, made, rows_per_file=10)
        (tmp_path / "text.parquet").write_text("no Parquet")
        pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
        with pytest.raises(ConfigError, match=told):
            find(settings(messy.topics), "a question", 5, where=made)


def test_a_search_with_a_model_that_is_not_to_be_had_is_refused(messy: Outputs, tmp_path: Path) -> None:
    export_all(messy.topics, tmp_path / "out.parquet")
    for where in (None, tmp_path / "out.parquet"):
        with pytest.raises(ConfigError, match=r"encoder\.model = \./absent can't be found"):
            find(settings(messy.topics), "a question", 5, where=where, model="./absent")
