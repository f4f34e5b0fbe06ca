"""Runs the command line as a user does: another process, a clean environment, an empty folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from embedstream.broker import ends_with_parent

__all__ = ["clean_environment", "run_cli", "start_cli"]


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings of embedstream, plus `env`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EMBEDSTREAM_")}
    # The hub is never asked: the tests use the bundled model or a path.
    return inherited | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | dict(env or {})


def run_cli(
    *args: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120.0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `embedstream ARGS` to its end; `cwd` None is a fresh empty folder."""
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [sys.executable, "-m", "embedstream", *map(str, args)],
            cwd=cwd or empty,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def start_cli(*args: str | Path, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start `embedstream ARGS`, a daemon, in the log's folder; it writes stdout and stderr to `log`.

    The caller ends it; the `daemon` fixture does so by itself.
    """
    command = [sys.executable, "-m", "embedstream", *map(str, args)]
    with log.open("ab") as output:
        return subprocess.Popen(
            ends_with_parent(command, signal.SIGKILL),
            cwd=log.parent,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
