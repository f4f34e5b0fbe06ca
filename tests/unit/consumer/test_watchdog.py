"""A process whose end hangs, as a process: it must be gone in time, with its code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import threading
from consumer.watchdog import watch_the_end
from embedstream.logs import configure
configure()
ending = threading.Event()
watch_the_end(ending, 0.2, lambda: 75)
print("ready", flush=True)
{before}
ending.set()
lock = threading.Lock(); lock.acquire(); lock.acquire()
"""


def started(before: str = "", stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def test_a_process_that_outlives_its_end_is_ended_with_its_code_and_a_line() -> None:
    process = started()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    (line,) = errors.decode().splitlines()
    assert "end_hangs" in line
    assert "watchdog" in line


def test_a_log_that_nobody_reads_does_not_keep_it_alive() -> None:
    reading, writing = os.pipe()
    fill = "import os; os.set_blocking(2, False)\ntry:\n    while True: os.write(2, b'x' * 4096)\n"
    fill += "except BlockingIOError: os.set_blocking(2, True)"
    process = started(fill, writing)
    assert process.wait(60) == 75
    os.close(reading)
    os.close(writing)


def test_a_process_that_was_not_asked_to_end_is_left_alone() -> None:
    process = started("threading.Event().wait()")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.kill()
    process.communicate()
