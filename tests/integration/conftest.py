"""Consumer daemons with the hash encoder, for tests on any broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from embedstream.broker import ends_with_parent
from tests.cli import clean_environment
from tests.kafka import Topics


@pytest.fixture
def hash_daemon(topics: Topics, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `consume` with the hash encoder made of the keywords; what still runs at the end is killed.

    The log of the first is `daemon-0.log` in `tmp_path`; `env` holds settings that have no flag.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(
        *flags: str, env: Mapping[str, str] | None = None, **encoder: object
    ) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"daemon-{len(started)}.log").open("wb")
        environment = clean_environment({"HASH_ENCODER": json.dumps(encoder)} | dict(env or {}))
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        own = [*topics.flags, "--metrics-port", "-1", "--group", topics.documents]
        command = [sys.executable, "-m", "tests.hash_encoder", *own, *flags]
        process = subprocess.Popen(
            ends_with_parent(command, signal.SIGKILL),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    for path in sorted(tmp_path.glob("daemon-*.log")):
        print(path.name, path.read_text(), sep="\n")
