"""A job with a simulated clock: documents of very different lengths, daemons whose speed is never steady."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from embedstream.progress import Profile, Stratum

__all__ = ["Job", "sampled", "sizes_sorted"]


def sizes_sorted(
    rng: random.Random, records: int, ratio: float = 100.0, *, descending: bool, smallest: int = 400
) -> list[int]:
    """Sizes whose logarithms are spread evenly, the largest `ratio` times the smallest, in order."""
    sizes = sorted(int(smallest * ratio ** rng.random()) for _ in range(records))
    return sizes[::-1] if descending else sizes


def sampled(partitions: Mapping[int, Sequence[int]], strata: int = 16, probe: int = 16) -> Profile:
    """The profile that probes in the middle of each stratum give, as `topic_sizes` takes them."""
    found: dict[int, list[Stratum]] = {}
    for partition, sizes in partitions.items():
        count = min(strata, max(1, len(sizes) // probe))
        edges = [len(sizes) * number // count for number in range(count + 1)]
        for start, end in pairwise(edges):
            middle = max(start, (start + end - probe) // 2)
            seen = sizes[middle : min(end, middle + probe)]
            mean = sum(seen) / len(seen)
            variance = sum((each - mean) ** 2 for each in seen) / max(1, len(seen) - 1)
            found.setdefault(partition, []).append(Stratum(start, end, mean, math.sqrt(variance / len(seen))))
    return Profile(found)


@dataclass
class Job:
    """Daemons that share partitions, a window of about two seconds each at a time.

    Their speed wanders around `bytes_per_second` by `noise` (an AR(1) process with a memory of a minute), and
    each record costs `record_seconds` besides.
    """

    partitions: Mapping[int, Sequence[int]]
    rng: random.Random
    daemons: int = 3
    bytes_per_second: float = 40_000.0
    noise: float = 0.1
    record_seconds: float = 0.001
    window_seconds: float = 2.0

    def run(self, look_seconds: float = 5.0) -> Iterator[tuple[float, dict[int, int]]]:
        """Yields (time, committed offsets) every `look_seconds`, and at the very end."""
        committed = dict.fromkeys(self.partitions, 0)
        clocks = [self.rng.random() * self.window_seconds for _ in range(self.daemons)]
        wander = [0.0] * self.daemons
        keep = math.exp(-self.window_seconds / 60)
        next_look = 0.0
        finished = 0.0
        while any(committed[p] < len(sizes) for p, sizes in self.partitions.items()):
            own = [self._left(number, committed) for number in range(self.daemons)]
            busy = [number for number in range(self.daemons) if own[number]]
            number = min(busy, key=lambda each: clocks[each])
            wander[number] = keep * wander[number] + math.sqrt(1 - keep**2) * self.rng.gauss(0, self.noise)
            speed = self.bytes_per_second * max(0.2, 1 + wander[number])
            seconds, taken = self._window(own[number], committed, speed)
            clocks[number] += seconds
            while next_look <= clocks[number]:
                # Windows land whole: what is not committed by then does not count.
                yield next_look, dict(committed)
                next_look += look_seconds
            committed |= taken
            finished = max(finished, clocks[number])
        yield finished, dict(committed)

    def _left(self, number: int, committed: Mapping[int, int]) -> list[int]:
        return [
            p
            for p, sizes in self.partitions.items()
            if p % self.daemons == number and committed[p] < len(sizes)
        ]

    def _window(
        self, own: Sequence[int], committed: Mapping[int, int], speed: float
    ) -> tuple[float, dict[int, int]]:
        seconds = 0.0
        taken = {p: committed[p] for p in own}
        # A chunk of records from the partition that is furthest behind, as a broker's fetches come.
        while seconds < self.window_seconds:
            open_ones = [p for p in own if taken[p] < len(self.partitions[p])]
            if not open_ones:
                break
            p = min(open_ones, key=lambda each: taken[each] / len(self.partitions[each]))
            seconds += self.partitions[p][taken[p]] / speed + self.record_seconds
            taken[p] += 1
        return seconds, taken
