"""Reads tasks, in this process or in several others, with bounded memory.

    for chunk in read_all(tasks, rules, processes=3): ...

A reader process gets its tasks through a pipe and returns chunks the same way. Where these are not taken, the
pipe fills up and the reader waits; so a chunk and a document are the most that each holds. A reader whose
pipe ends, since its parent was killed, ends too.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from embedstream.errors import TryAgainError
from producer.reading import Chunk, Task, read_task
from producer.source import ReadingRules

__all__ = ["MAX_READERS", "default_readers", "read_all"]

MAX_READERS = 8
"""More than one sender can keep up with: a reader does well over 100 MB/s."""

# What one process reads sooner than others start.
_SMALL_TASKS = 16
_SMALL_BYTES = 32 * 1024 * 1024
# One that is being read and one to go on with.
_TASKS_AHEAD = 2
_IDLE_SECONDS = 0.1
# Linux gives an unprivileged process this much.
_PIPE_BYTES = 1024 * 1024


def default_readers() -> int:
    """Return how many processes may read: one for each core but the two that send.

    One thread sends and one, the Kafka client's, compresses. On two cores a reader beside them is slower than
    none: what it reads is copied through a pipe, and it takes its time from the other two (57 to 60 against
    72 to 89 MB/s on 2 cores of an AMD EPYC that also ran the broker).
    """
    return max(0, min(MAX_READERS, len(os.sched_getaffinity(0)) - 2))


def read_all(tasks: Iterator[Task], rules: ReadingRules, processes: int) -> Iterator[Chunk]:
    """Yield what the tasks hold; the chunks of one task in order, those of several in any.

    Every tenth of a second without one, an empty chunk is yielded, so that the caller can look around.

    Args:
        tasks: Taken as readers get free.
        rules: How to read.
        processes: How many processes beside this one may read; with 0, or where there is little to read,
            this one does.

    Raises:
        TryAgainError: A reader was killed.
    """
    first = list(itertools.islice(tasks, _SMALL_TASKS))
    size = sum(file.found.size for task in first for file in task)
    if not processes or (len(first) < _SMALL_TASKS and size < _SMALL_BYTES):
        for task in itertools.chain(first, tasks):
            yield from read_task(task, rules)
        return
    with _Readers(processes, rules) as readers:
        if len(first) == _SMALL_TASKS:
            # While the others start, which takes them half a second.
            while first:
                yield from read_task(first.pop(0), rules)
        yield from readers.read(itertools.chain(first, tasks))


class _Readers:
    """The processes; a context manager that leaves none behind."""

    def __init__(self, count: int, rules: ReadingRules) -> None:
        # Not forked: this process has threads, the Kafka client's among them.
        context = multiprocessing.get_context("spawn")
        self._tasks: dict[Connection, Connection] = {}
        self._processes: list[BaseProcess] = []
        # Ctrl-C goes to every process of the terminal, and this one alone decides what becomes of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(count):
                their_tasks, tasks = context.Pipe(duplex=False)
                chunks, their_chunks = context.Pipe(duplex=False)
                _enlarge(chunks)
                process = context.Process(
                    target=_serve,
                    args=(their_tasks, their_chunks, rules),
                    name=f"reader-{number}",
                    daemon=True,
                )
                process.start()
                their_tasks.close()
                their_chunks.close()
                self._tasks[chunks] = tasks
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for chunks, tasks in self._tasks.items():
            chunks.close()
            tasks.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def read(self, tasks: Iterator[Task]) -> Iterator[Chunk]:
        """Yield the chunks as they come."""
        # One at a time to each, so that all have something to do before one has two.
        free = deque(chunks for _ in range(_TASKS_AHEAD) for chunks in self._tasks)
        in_work = 0
        while True:
            while free and (task := next(tasks, None)) is not None:
                self._give(free.popleft(), task)
                in_work += 1
            if not in_work:
                return
            ready = wait(list(self._tasks), timeout=_IDLE_SECONDS)
            if not ready:
                yield Chunk()
            for chunks in ready:
                assert isinstance(chunks, Connection)
                chunk = self._take(chunks)
                if chunk.last:
                    free.append(chunks)
                    in_work -= 1
                yield chunk

    def _give(self, chunks: Connection, task: Task) -> None:
        try:
            self._tasks[chunks].send(task)
        except OSError:
            raise _killed() from None

    def _take(self, chunks: Connection) -> Chunk:
        try:
            found = chunks.recv()
        except (EOFError, OSError):
            raise _killed() from None
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Chunk)
        return found


def _enlarge(pipe: Connection) -> None:
    """Let a pipe hold more than one chunk, so that neither end waits while the other one works."""
    # Linux has this; where it is refused, a smaller pipe does as well.
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _serve(tasks: Connection, chunks: Connection, rules: ReadingRules) -> None:
    """Read tasks until the pipe ends: all that a reader process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            task: Task = tasks.recv()
            try:
                for chunk in read_task(task, rules):
                    chunks.send(chunk)
            except (EOFError, BrokenPipeError, ConnectionError):
                raise
            # A bug: the parent reports it as one of its own.
            except Exception as error:
                chunks.send(error)
                return


def _killed() -> TryAgainError:
    return TryAgainError(
        "a process that reads the corpus was killed", "look for a lack of memory, and run again"
    )
