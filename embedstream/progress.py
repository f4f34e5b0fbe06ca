"""How far a job is and how long it will still take: the one function behind metrics, `status` and dashboards.

    history = History()
    history.add(time, committed_offsets, profile, owners)
    estimate(history, profile, owners)

What is left is weighed in bytes of documents, not in records: in a corpus that comes sorted by size, the last
tenth of the records may be half of the work. How many bytes lie between two offsets is known from a sample of
the topic (`Profile`). A job ends with its slowest daemon, since nobody takes partitions from another that
lives: so what is left is looked at daemon by daemon. Pure: times are given, in seconds of a clock that never
goes back.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["Estimate", "History", "Look", "Profile", "Stratum", "estimate"]

# The recent window: half of what was seen, so that a long job is not swayed by some minutes of noise, and at
# most half an hour; after a change of the fleet it begins anew.
WINDOW_SHARE = 0.5
WINDOW_SECONDS = (60.0, 1800.0)
BLOCKS = 8
# Neighbouring blocks are alike: so many of them count as one observation.
ALIKE = 4
# Student's t for 90 % with BLOCKS - 1 degrees of freedom.
QUANTILE = 1.9
# Times in which work is not spread evenly, lengths of passages: what no window of the past tells.
FLOOR = 0.05
# A job's end is seen at a look, and windows land whole.
GRAIN_SECONDS = 5.0
KEPT_LOOKS = 720


@dataclass(frozen=True, slots=True)
class Stratum:
    """A stretch of a partition, and what an offset of it weighs in bytes.

    It goes from offset `start` to before `end`; `error` is the standard error of that mean, in bytes. Within
    it an offset weighs `slope` bytes more than the one before.
    """

    start: int
    end: int
    mean: float
    error: float
    slope: float = 0.0

    @property
    def bytes(self) -> float:
        """What all of it weighs."""
        return (self.end - self.start) * self.mean

    @property
    def middle(self) -> float:
        """The offset that weighs what the mean is."""
        return (self.start + self.end) / 2

    def bytes_before(self, offset: int) -> float:
        """What its offsets before this one weigh."""
        size = self.end - self.start
        passed = min(max(offset - self.start, 0), size)
        return passed * (self.mean - self.slope * (size - passed) / 2)


class Profile:
    """What lies between offsets, in bytes, for each partition of a topic. Frozen.

    Where strata rise or fall, so do the offsets within them: in a corpus that is sorted by size, what is left
    of a stratum weighs more than what is done.
    """

    def __init__(self, strata: Mapping[int, Sequence[Stratum]]) -> None:
        """Takes strata that follow on each other in each partition."""
        self.strata = {p: _sloped(sorted(each, key=lambda s: s.start)) for p, each in strata.items()}
        self.total = math.fsum(s.bytes for each in self.strata.values() for s in each)

    def done(self, committed: Mapping[int, int]) -> dict[int, float]:
        """Bytes before the committed offset of each partition; one without an offset has none done."""
        return {
            partition: math.fsum(s.bytes_before(committed.get(partition, s.start)) for s in strata)
            for partition, strata in self.strata.items()
        }

    def left(self, committed: Mapping[int, int], partitions: Collection[int]) -> tuple[float, float]:
        """Bytes from the committed offsets on, and the standard error of that, in bytes."""
        left = variance = 0.0
        for partition in partitions:
            for s in self.strata.get(partition, ()):
                reached = committed.get(partition, s.start)
                offsets = s.end - max(s.start, min(s.end, reached))
                left += s.bytes - s.bytes_before(reached)
                variance += (offsets * s.error) ** 2
        return left, math.sqrt(variance)


def _sloped(strata: Sequence[Stratum]) -> tuple[Stratum, ...]:
    """With the slope that strata on both sides agree on: none at a step, or where sizes come as they like.

    The limiter of finite-volume schemes (minmod: Roe 1986); at both ends twice the next slope limits.
    """
    rises = [
        (after.mean - before.mean) / (after.middle - before.middle) if after.end > before.start else 0.0
        for before, after in pairwise(strata)
    ]
    if len(rises) < 2:
        return tuple(strata)
    sides = pairwise([2 * rises[1], *rises, 2 * rises[-2]])
    slopes = [0.0 if one * other <= 0 else min(one, other, key=abs) for one, other in sides]
    # No offset weighs less than nothing.
    most = [2 * each.mean / max(1, each.end - each.start) for each in strata]
    return tuple(
        replace(each, slope=max(-limit, min(limit, slope)))
        for each, slope, limit in zip(strata, slopes, most, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Look:
    """At `time` (seconds), so many bytes were done in each partition, and so were the offsets."""

    time: float
    committed: Mapping[int, int]
    done: Mapping[int, float]

    def sum(self, partitions: Collection[int]) -> float:
        """Bytes that were done in these partitions."""
        return math.fsum(self.done.get(each, 0.0) for each in partitions)


class History:
    """The looks of a job, in order; as many as are of use."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.steady_since = -math.inf
        self._owners: frozenset[frozenset[int]] = frozenset()

    def add(
        self,
        time: float,
        committed: Mapping[int, int],
        profile: Profile,
        owners: Collection[Collection[int]] = (),
    ) -> None:
        """Takes a look in.

        Until something moves, only the last look counts: a model that loads is no slow rate. Time that stands
        still or goes back tells nothing, and work that goes back (offsets that were reset) begins anew.

        Args:
            time: Seconds of a clock that does not go back.
            committed: The group's offset of each partition that has one.
            profile: What the offsets weigh.
            owners: The partitions of each daemon, as far as that is known.
        """
        looks, look = self.looks, Look(time, dict(committed), profile.done(committed))
        if looks and look.time <= looks[-1].time:
            return
        if looks and any(done < looks[-1].done.get(p, 0.0) for p, done in look.done.items()):
            looks.clear()
        if len(looks) == 1 and look.done == looks[0].done:
            looks.clear()
        looks.append(look)
        if len(looks) > KEPT_LOOKS:
            # Old looks may lie further apart than new ones.
            del looks[1 : KEPT_LOOKS // 2 : 2]
        now = frozenset(frozenset(each) for each in owners)
        if now != self._owners:
            self._owners, self.steady_since = now, time

    def done(self, time: float, partitions: Collection[int]) -> float:
        """What was done at a time, between two looks in proportion."""
        place = bisect_left(self.looks, time, key=lambda each: each.time)
        if place in (0, len(self.looks)):
            return self.looks[min(place, len(self.looks) - 1)].sum(partitions)
        before, after = self.looks[place - 1], self.looks[place]
        share = (time - before.time) / (after.time - before.time)
        first = before.sum(partitions)
        return first + share * (after.sum(partitions) - first)

    @property
    def window(self) -> float:
        """Length of the recent window, in seconds: it reaches back to the last change of owners at most."""
        now, began = self.looks[-1].time, self.looks[0].time
        shortest, longest = WINDOW_SECONDS
        wanted = min(longest, max(shortest, WINDOW_SHARE * (now - began)))
        return min(now - began, max(shortest, min(wanted, now - self.steady_since)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """How far, how fast, and how much longer.

    Attributes:
        ratio: Share of the bytes that is done; 1 where there was nothing to do.
        done: Bytes that are done.
        total: Bytes of the job.
        rate: Bytes a second over the recent window; None until something moved.
        likely: Seconds left: None while no rate is known, infinite while nothing moves.
        low: If it goes well; in nine of ten cases the truth lies between this and `high`.
        high: If it goes badly.
    """

    ratio: float
    done: float
    total: float
    rate: float | None = None
    likely: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(history: History, profile: Profile, owners: Collection[Collection[int]] = ()) -> Estimate:
    """Tell how far a job is and how long it will take, as of the last look.

    Args:
        history: The looks so far.
        profile: What the offsets weigh.
        owners: The partitions of each daemon of the group; those that nobody owns count as one more.
    """
    everything = frozenset(profile.strata)
    total = profile.total
    if not history.looks:
        return Estimate(0.0 if total else 1.0, 0.0, total)
    last = history.looks[-1]
    left, _ = profile.left(last.committed, everything)
    done = max(0.0, total - left)
    ratio = done / total if total else 1.0
    if left <= 0:
        return Estimate(1.0, total, total, None, 0.0, 0.0, 0.0)
    if len(history.looks) < 2:
        return Estimate(ratio, done, total)
    rate = _rates(history, everything)[0]
    if rate <= 0:
        return Estimate(ratio, done, total, 0.0, math.inf, math.inf, math.inf)
    whole = _forecast(history, profile, everything)
    known = [frozenset(each) & everything for each in owners]
    orphans = everything.difference(*known)
    # A daemon that has just got its partitions tells nothing yet: then the group counts as one.
    each = [_forecast(history, profile, own) or whole for own in (*known, orphans) if own]
    busy = [one for one in (each or [whole]) if one is not None]
    low, likely, high = (max(one[bound] for one in busy) for bound in range(3))
    return Estimate(ratio, done, total, rate, likely, low, high)


def _forecast(
    history: History, profile: Profile, partitions: Collection[int]
) -> tuple[float, float, float] | None:
    """Seconds until these partitions are done: low, likely, high; None where their rate is not known."""
    left, error = profile.left(history.looks[-1].committed, partitions)
    if left <= 0:
        return 0.0, 0.0, 0.0
    rate, deviation = _rates(history, partitions)
    if rate <= 0:
        return None
    likely = left / rate
    # Neighbouring blocks are alike, so each counts as half an observation; and the time ahead has a mean of
    # its own, the shorter the more so.
    steady = math.sqrt(ALIKE / BLOCKS + min(1.0, history.window / BLOCKS / likely))
    spread = math.hypot(FLOOR, QUANTILE * error / left, QUANTILE * steady * deviation / rate)
    high = likely * (1 + spread) + GRAIN_SECONDS
    return max(0.0, likely / (1 + spread) - GRAIN_SECONDS), likely, high


def _rates(history: History, partitions: Collection[int]) -> tuple[float, float]:
    """The rate over the recent window, and the standard deviation of the rates of its blocks, in bytes/s."""
    now, window = history.looks[-1].time, history.window
    length = window / BLOCKS
    edges = [history.done(now - window + length * number, partitions) for number in range(BLOCKS + 1)]
    rates = [(after - before) / length for before, after in pairwise(edges)]
    return (edges[-1] - edges[0]) / window, statistics.stdev(rates)
