from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from embedstream.errors import TryAgainError
from producer import readers as module
from producer.readers import MAX_READERS, default_readers, read_all
from producer.reading import Chunk, FileToRead, Task
from producer.source import ReadingRules
from producer.walk import FoundFile
from tests.kafka import wait_until


@pytest.fixture(autouse=True)
def _in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to read, beyond the first task."""
    monkeypatch.setattr(module, "_SMALL_TASKS", 1)


def tasks(folder: Path, count: int) -> Iterator[Task]:
    for number in range(count):
        path = folder / f"{number}.txt"
        path.write_text(f"Document {number}.")
        yield [FileToRead(number, FoundFile(str(path), path.name, path.stat().st_size))]


def contents(chunks: list[Chunk]) -> list[str]:
    return sorted(document.id for chunk in chunks for document in chunk.documents)


@pytest.mark.parametrize("processes", [0, 2])
def test_everything_is_read_and_every_file_ends_once(tmp_path: Path, processes: int) -> None:
    chunks = list(read_all(tasks(tmp_path, 20), ReadingRules(), processes))
    assert contents(chunks) == sorted(f"{n}.txt" for n in range(20))
    assert sorted(number for chunk in chunks for number in chunk.ended) == list(range(20))
    assert sum(chunk.bytes_read for chunk in chunks) == sum(len(f"Document {n}.") for n in range(20))


def test_no_more_tasks_are_taken_than_readers_have_ahead(tmp_path: Path) -> None:
    taken: list[int] = []

    def counted() -> Iterator[Task]:
        for number, task in enumerate(tasks(tmp_path, 50)):
            taken.append(number)
            yield task

    reading = read_all(counted(), ReadingRules(), 1)
    next(reading)
    next(reading)
    assert len(taken) <= 4
    reading.close()  # type: ignore[attr-defined]


def test_a_reader_that_is_killed_is_told_in_one_line_and_the_others_end(tmp_path: Path) -> None:
    me = psutil.Process()
    before = {process.pid for process in me.children()}
    reading = read_all(tasks(tmp_path, 10_000), ReadingRules(), 2)
    next(reading)
    next(reading)
    readers = [
        process.pid
        for process in me.children()
        if process.pid not in before and "spawn_main" in " ".join(process.cmdline())
    ]
    assert len(readers) == 2
    os.kill(readers[0], signal.SIGKILL)
    with pytest.raises(TryAgainError, match="was killed"):
        list(reading)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in readers) or None, 10)


@pytest.mark.parametrize(("cores", "processes"), [(1, 0), (2, 0), (3, 1), (4, 2), (64, MAX_READERS)])
def test_two_cores_are_left_to_who_sends_and_who_compresses(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_readers() == processes
