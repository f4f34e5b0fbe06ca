"""Exports into Qdrant's local mode, by its own client: there is no server to test with here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from embedstream.errors import ServiceUnavailableError, UsageError
from embedstream.export import Options, export
from embedstream.settings import Settings, load
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli, start_cli
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.outputs import Outputs, newest_rows


@pytest.fixture
def outputs(embedded_broker: BrokerHandle) -> Outputs:
    return Outputs(make_topics(embedded_broker.bootstrap))


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
    manifest = tmp_path / "passages.qdrant-export" / "manifest.json"
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
    points = points_of(folder, "passages")
    assert points.keys() == wanted.keys()
    for name, point in points.items():
        np.testing.assert_allclose(point.vector, np.float32(wanted[name]["vector"]), atol=1e-6)
        assert point.payload["document_id"] == wanted[name]["document_id"]
        assert point.payload["text"] == wanted[name]["text"]
        assert point.payload["metadata"] == wanted[name]["metadata"]
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


def test_the_key_is_not_shown() -> None:
    done = run_cli("config", "show", env={"EMBEDSTREAM_EXPORT__QDRANT_API_KEY": "hush"})
    assert done.returncode == 0
    assert "hush" not in done.stdout + done.stderr
    assert "export.qdrant_api_key" in done.stdout
