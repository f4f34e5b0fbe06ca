"""How a process ends, as a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedstream.ending import tell
from embedstream.errors import FencedError

STUCK = """
import threading
from embedstream.ending import ends_the_process
from embedstream.errors import ConfigError
from embedstream.logs import configure
configure()
threading.Thread(target=threading.Event().wait).start()
with ends_the_process():
    {block}
"""


def ended(block: str) -> subprocess.CompletedProcess[str]:
    """The block, with a thread that the interpreter's own end would wait for."""
    return subprocess.run(
        [sys.executable, "-c", STUCK.format(block=block)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_stuck_thread_does_not_keep_an_ended_process_alive() -> None:
    done = ended("print('told')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")


def test_an_error_is_one_line_and_its_exit_code() -> None:
    done = ended("raise ConfigError('a setting is wrong', 'mend it')")
    assert (done.returncode, done.stderr) == (78, "embedstream: a setting is wrong: mend it\n")


def test_a_bug_is_told_as_one() -> None:
    done = ended("1 / 0")
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "this is a bug in embedstream" in done.stderr.splitlines()[-1]


def test_a_closed_stderr_does_not_change_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as broken:
        monkeypatch.setattr("sys.stderr", broken)
        assert tell(FencedError("another daemon")) == 5
        monkeypatch.undo()
        broken.buffer.raw.close()  # type: ignore[attr-defined]
