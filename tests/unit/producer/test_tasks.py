"""What a reader process is given at a time."""

from __future__ import annotations

import pickle
import random

import pytest

from producer.reading import FileToRead
from producer.run import _tasks
from producer.walk import FoundFile

# What a pipe holds on Linux and macOS, unless one asks for more.
PIPE_BYTES = 65_536


def test_the_list_of_a_tasks_files_fits_into_a_pipe_whatever_their_names() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for letter in ("a", "é", "漢", "\udce9", "😀"):
        files = []
        for number in range(1000):
            name = letter * chance.randrange(1, 80)
            relative = f"{letter * 40}/{name}"
            sidecar = f"/corpus/metadata/{name}.json" if number % 2 else ""
            files.append(
                FileToRead(2**40 + number, FoundFile(f"/corpus/{relative}", relative, 9, 1, sidecar))
            )
        tasks = list(_tasks(iter(files)))
        assert [file for task in tasks for file in task] == files
        for task in tasks:
            assert len(pickle.dumps(task)) < PIPE_BYTES
        assert len(tasks) < 50


@pytest.mark.parametrize("size", [10, 1_000_000, 50_000_000])
def test_a_task_is_neither_tiny_nor_large(size: int) -> None:
    files = [FileToRead(n, FoundFile(f"/c/{n}.json", f"{n}.json", size)) for n in range(500)]
    lengths = [len(task) for task in _tasks(iter(files))]
    assert max(lengths) == {10: 200, 1_000_000: 2, 50_000_000: 1}[size]
