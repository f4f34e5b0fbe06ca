"""A CPU's cores in groups, each at work on a part of a batch of its own.

    streams = Streams(torch.get_num_threads())
    streams.submit(encode, batch).result()

Where all cores share each product, they wait for the slowest of them hundreds of times in a batch; so they do
once. That is a tenth of the time of a small model on two cores.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Joined", "Streams", "parts"]

Ids: TypeAlias = NDArray[np.int32]
Encode: TypeAlias = Callable[[Sequence[Ids]], NDArray[np.float32]]
_Job: TypeAlias = tuple["Future[NDArray[np.float32]]", Encode, Sequence[Ids]]

# Beyond, the cores of a group share its products: a part for each of many cores would be too small, or the
# batch too large for the memory.
MOST_STREAMS = 4


class Streams:
    """Threads that compute, each with a group of the cores."""

    def __init__(self, cores: int) -> None:
        """Starts the threads; they end when this is no longer referred to.

        Args:
            cores: how many threads torch may use in all.
        """
        self.count = min(cores, MOST_STREAMS)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        for number in range(self.count):
            # A daemon thread, as the one that waits for it: what hangs must not keep a failed process alive.
            threading.Thread(
                target=_work, args=(self._jobs, cores // self.count), name=f"embed-{number}", daemon=True
            ).start()
        weakref.finalize(self, _end, self._jobs, self.count)

    def submit(self, encode: Encode, batch: Sequence[Ids]) -> Joined:
        """Begins to encode a batch: its parts, behind those of earlier ones, each on the next free thread."""
        futures = []
        for part in parts(batch, self.count):
            futures.append(Future[NDArray[np.float32]]())
            self._jobs.put((futures[-1], encode, part))
        return Joined(tuple(futures))


@dataclass(frozen=True, slots=True)
class Joined:
    """The parts of a batch that are at work."""

    futures: tuple[Future[NDArray[np.float32]], ...]

    def result(self) -> NDArray[np.float32]:
        """Waits for all of them; the vectors in the batch's order, or the first error of a part."""
        return np.concatenate([each.result() for each in self.futures])


def parts(batch: Sequence[Ids], count: int) -> list[Sequence[Ids]]:
    """Cuts a batch into at most `count` runs of about as many tokens, none of them empty."""
    ends = list(accumulate(map(len, batch)))
    # A passage belongs where its middle lies.
    middles = [end - len(ids) / 2 for end, ids in zip(ends, batch, strict=True)]
    places = [min(count - 1, int(count * middle / ends[-1])) for middle in middles]
    starts = [place for place in range(len(batch)) if place == 0 or places[place] != places[place - 1]]
    return [batch[start:end] for start, end in pairwise([*starts, len(batch)])]


def _work(jobs: queue.SimpleQueue[_Job | None], threads: int) -> None:
    torch.set_num_threads(threads)  # of this thread's products
    while (job := jobs.get()) is not None:
        future, encode, part = job
        try:
            future.set_result(encode(part))
        except BaseException as error:
            future.set_exception(error)
        # Until the next job is there, nothing of this one is kept.
        del job, future, encode, part


def _end(jobs: queue.SimpleQueue[_Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)
