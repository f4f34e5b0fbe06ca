"""Exports into Qdrant by its own client: in its local mode, and to a stand-in for the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct

from embedstream.errors import ConfigError, FindingError, ServiceUnavailableError, UsageError
from embedstream.export import Options, export
from embedstream.settings import Settings, load
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli, start_cli
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.outputs import Outputs, newest_rows
from tests.qdrant_server import QdrantServer


@pytest.fixture
def outputs(embedded_broker: BrokerHandle) -> Outputs:
    return Outputs(make_topics(embedded_broker.bootstrap))


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


def points_of(folder: Path, collection: str) -> dict[str, Any]:
    client = QdrantClient(path=str(folder))
    try:
        points, more = client.scroll(collection, limit=100_000, with_vectors=True)
        assert more is None
        return {str(each.id): each for each in points}
    finally:
        client.close()


def wanted_of(topics: Topics) -> dict[str, Any]:
    return newest_rows(read_all(topics.bootstrap, topics.embeddings), [])


def assert_same(points: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert points.keys() == wanted.keys()
    for name, point in points.items():
        np.testing.assert_allclose(point.vector, np.float32(wanted[name]["vector"]), atol=1e-6)
        assert point.payload["document_id"] == wanted[name]["document_id"]
        assert point.payload["text"] == wanted[name]["text"]
        assert point.payload["metadata"] == wanted[name]["metadata"]


@pytest.mark.slow
def test_a_collection_holds_the_newest_versions_and_goes_on_after_a_kill(
    outputs: Outputs, tmp_path: Path
) -> None:
    outputs.embed("changed", version=1, passages=2)
    outputs.embed("gone")
    outputs.delete("gone", 2)
    for number in range(150):
        outputs.embed(f"document {number}", passages=20)
    outputs.embed("changed", version=2, passages=1)
    outputs.flush()
    wanted = wanted_of(outputs.topics)
    folder = tmp_path / "store"
    url = f"qdrant://{folder}/passages"
    command = ["export", "--to", url, *outputs.topics.flags, "--json"]
    manifest = tmp_path / "passages.qdrant-export" / "_manifest.json"
    killed = start_cli(*command, log=tmp_path / "killed.log")
    try:
        wait_until(lambda: manifest.exists() and json.loads(manifest.read_text())["rows"] >= 512)
    finally:
        killed.kill()
        killed.wait()
    assert not json.loads(manifest.read_text())["complete"], "killed too late to show anything"
    outputs.embed("changed", version=3)
    outputs.flush()
    done = run_cli(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"]
    assert_same(points_of(folder, "passages"), wanted)
    assert not manifest.parent.exists()
    again = run_cli(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert "holds points" in again.stderr


@pytest.mark.slow
def test_a_collection_of_another_dimension_is_refused(outputs: Outputs, tmp_path: Path) -> None:
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("small", vectors_config=VectorParams(size=3, distance=Distance.COSINE))
    client.close()
    outputs.embed("a")
    outputs.flush()
    done = run_cli("export", "--to", f"qdrant://{tmp_path}/store/small", *outputs.topics.flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "not made for vectors of 8 dimensions" in done.stderr


@pytest.mark.slow
def test_a_server_that_goes_away_in_the_middle_is_gone_on_with(
    outputs: Outputs, tmp_path: Path, server: QdrantServer
) -> None:
    for number in range(40):
        outputs.embed(f"document {number}", passages=20)
    outputs.flush()
    wanted = wanted_of(outputs.topics)
    server.key, server.takes = "right", 2
    command = ["export", "--to", f"qdrant://{server.address}/passages", *outputs.topics.flags, "--json"]
    for key, code, told in (
        ("wrong-hush", 78, "refuses the request (401 Unauthorized): check export.qdrant_api_key"),
        ("right", 69, "no Qdrant answers at"),
        ("right", 69, "no Qdrant answers at"),
    ):
        done = run_cli(*command, env={"EMBEDSTREAM_EXPORT__QDRANT_API_KEY": key}, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert told in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert "hush" not in done.stderr + done.stdout
    manifest = json.loads((tmp_path / "passages.qdrant-export" / "_manifest.json").read_text())
    assert manifest["rows"] == len(server.points("passages")) == 512
    server.takes = 100
    done = run_cli(*command, env={"EMBEDSTREAM_EXPORT__QDRANT_API_KEY": "right"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"]
    assert_same(server.points("passages"), wanted)
    assert list(tmp_path.iterdir()) == []
    assert server.takes == 100 - 2


@pytest.mark.slow
def test_what_one_server_holds_is_not_taken_for_what_another_does(
    outputs: Outputs, tmp_path: Path, server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        outputs.embed(f"document {number}", passages=20)
    outputs.flush()
    monkeypatch.chdir(tmp_path)
    settings = Settings(kafka=outputs.topics.kafka)
    server.takes = 1
    with pytest.raises(ServiceUnavailableError, match="no Qdrant answers"):
        export(settings, f"qdrant://{server.address}/passages", Options())
    with (
        QdrantServer() as another,
        pytest.raises(UsageError, match=r"holds 0 points, .* 256 were written: .* remove that folder"),
    ):
        export(settings, f"qdrant://{another.address}/passages", Options())
    # Beside those that were written there, something else writes.
    server.takes = 100
    server.store.upsert("passages", [PointStruct(id=1, vector=[1.0] * 8)])
    with pytest.raises(FindingError, match=r"holds 801 points, and 800 were written"):
        export(settings, f"qdrant://{server.address}/passages", Options())


@pytest.mark.parametrize(("status", "told"), [(500, "500 Internal Server Error"), (503, "503 Service")])
def test_a_server_that_fails_is_one_line(
    tmp_path: Path, server: QdrantServer, monkeypatch: pytest.MonkeyPatch, status: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    server.status = status
    with pytest.raises(ServiceUnavailableError, match=f"x fails .{told}"):
        export(load(), f"qdrant://{server.address}/x", Options())


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(
    outputs: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (port,) = free_ports(1)
    with pytest.raises(ServiceUnavailableError, match=f"no Qdrant answers at qdrant://127.0.0.1:{port}/x"):
        export(Settings(kafka=outputs.topics.kafka), f"qdrant://127.0.0.1:{port}/x", Options())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["qdrant://host:port/name", "qdrant://host", "qdrant://host/a/b", "s3://bucket/name", "qdrant:///"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        export(load(), url, Options())


def test_a_server_on_the_internet_is_refused_without_tls() -> None:
    settings = load(flags={"export.qdrant_api_key": "hush"})
    with pytest.raises(ConfigError, match=r"8\.8\.8\.8/x is public, .* write qdrants://") as error:
        export(settings, "qdrant://8.8.8.8/x", Options())
    assert "hush" not in str(error.value)


def test_the_key_is_not_shown() -> None:
    done = run_cli("config", "show", env={"EMBEDSTREAM_EXPORT__QDRANT_API_KEY": "hush"})
    assert done.returncode == 0
    assert "hush" not in done.stdout + done.stderr
    assert "export.qdrant_api_key" in done.stdout
