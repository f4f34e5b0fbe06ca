from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstream.progress import Estimate, History, Profile, Stratum, estimate
from tests.simulated_job import Job, sampled, sizes_sorted

ONE = Profile({0: [Stratum(0, 100, 10.0, 0.0)]})


def looks_of(seed: int, noise: float, *, descending: bool) -> list[tuple[float, float, Estimate]]:
    """(share of the records done, true seconds left, estimate) of a job over a sorted corpus, every 5 s."""
    rng = random.Random(seed)
    sizes = sizes_sorted(rng, 40_000, 100.0, descending=descending)
    partitions = {number: sizes[number::6] for number in range(6)}
    owners = [[0, 3], [1, 4], [2, 5]]
    profile, history = sampled(partitions), History()
    seen = []
    for time, committed in Job(partitions, rng, noise=noise).run():
        history.add(time, committed, profile, owners)
        records = sum(committed.values()) / len(sizes)
        seen.append((time, records, estimate(history, profile, owners)))
    end = seen[-1][0]
    assert seen[-1][2].ratio == 1.0
    assert max(sizes) / min(sizes) > 99
    return [(records, end - time, told) for time, records, told in seen]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_corpus_sorted_by_size_the_time_left_is_true_from_a_fifth_on(
    seed: int, descending: bool
) -> None:
    held = judged = 0
    for records, truth, told in looks_of(seed, 0.05, descending=descending):
        if min(records, told.ratio) < 0.2 or truth < 5:
            continue
        assert told.low is not None
        assert told.likely is not None
        assert told.high is not None
        # The last look may be 5 s off by itself.
        assert abs(told.likely - truth) <= max(5.0, 0.15 * truth), (told, truth)
        judged += 1
        held += told.low <= truth <= told.high
        # A range that holds everything tells nothing.
        assert told.high - told.low <= 0.5 * told.likely + 12
    assert judged > 200
    assert held >= 0.9 * judged


@pytest.mark.parametrize("descending", [False, True])
def test_what_is_left_is_known_within_a_stratum_too(descending: bool) -> None:
    sizes = sizes_sorted(random.Random(1), 7000, 100.0, descending=descending)
    profile = sampled({0: sizes})
    for offset in range(1000, 6950, 50):
        left, _ = profile.left({0: offset}, [0])
        # With the mean of each stratum, the last tenth would be off by an eighth.
        assert left == pytest.approx(sum(sizes[offset:]), rel=0.03), offset


def test_where_sizes_jump_or_come_as_they_like_a_stratum_is_level() -> None:
    jump = sampled({0: [100] * 1000 + [10_000] * 1000})
    assert {each.slope for each in jump.strata[0]} == {0.0}
    mixed = Profile({0: [Stratum(n, n + 100, 10.0 + (n // 100) % 2, 0.0) for n in range(0, 1000, 100)]})
    assert {each.slope for each in mixed.strata[0]} == {0.0}
    steep = Profile({0: [Stratum(n, n + 100, float(4 ** (n // 100)), 0.0) for n in range(0, 1000, 100)]})
    for each in steep.strata[0]:
        weights = [each.bytes_before(o + 1) - each.bytes_before(o) for o in range(each.start, each.end)]
        assert min(weights) > -1e-6 * each.mean
        assert sum(weights) == pytest.approx(each.bytes)


def test_counted_in_records_the_same_job_would_be_told_wrong() -> None:
    # What this module is for: at half of the records of a rising corpus, a tenth of the work is done.
    looks = looks_of(0, 0.05, descending=False)
    records, truth, told = next(each for each in looks if each[0] >= 0.5)
    elapsed = looks[0][1] - truth
    assert elapsed / records * (1 - records) < 0.2 * truth
    assert told.likely == pytest.approx(truth, rel=0.15)


def test_a_daemon_that_is_slower_than_the_others_ends_the_job() -> None:
    profile = Profile({0: [Stratum(0, 1000, 1.0, 0.0)], 1: [Stratum(0, 1000, 1.0, 0.0)]})
    history, owners = History(), [[0], [1]]
    for time in range(0, 101, 5):
        history.add(time, {0: 8 * time, 1: 2 * time}, profile, owners)
    told = estimate(history, profile, owners)
    assert told.ratio == 0.5
    assert told.likely == pytest.approx(800 / 2)
    # As one daemon, the rest would seem to take 100 s.
    assert estimate(history, profile).likely == pytest.approx(100)


def test_after_a_daemon_was_lost_the_window_begins_anew() -> None:
    profile = Profile({p: [Stratum(0, 10_000, 1.0, 0.0)] for p in (0, 1)})
    history = History()
    for time in range(0, 601, 5):
        history.add(time, {0: 5 * time, 1: 5 * time}, profile, [[0], [1]])
    for time in range(605, 701, 5):
        done = 3000 + (time - 600) * 2.5
        history.add(time, {0: int(done), 1: int(done)}, profile, [[0, 1]])
    told = estimate(history, profile, [[0, 1]])
    assert told.rate == pytest.approx(5.0, rel=0.05)


def test_before_anything_moves_nothing_is_known_and_loading_a_model_is_no_slow_rate() -> None:
    history = History()
    assert estimate(history, ONE) == Estimate(0.0, 0.0, 1000.0)
    for time in (0, 100, 200):
        history.add(time, {}, ONE)
        assert estimate(history, ONE) == Estimate(0.0, 0.0, 1000.0)
    history.add(210, {0: 10}, ONE)
    told = estimate(history, ONE)
    assert told.rate == pytest.approx(10.0)
    assert told.likely == pytest.approx(90.0)


def test_what_stands_still_takes_for_ever() -> None:
    history = History()
    for time, offset in ((0, 0), (5, 10), (4000, 10), (8000, 10)):
        history.add(time, {0: offset}, ONE)
    told = estimate(history, ONE)
    assert (told.rate, told.likely, told.high) == (0.0, math.inf, math.inf)


def test_a_topic_without_records_is_done() -> None:
    history = History()
    for profile in (Profile({}), Profile({0: []}), Profile({0: [Stratum(5, 5, 0.0, 0.0)]})):
        assert estimate(history, profile).ratio == 1.0
        history.add(0, {}, profile)
        assert estimate(history, profile).likely == 0.0


def test_offsets_that_go_back_begin_a_new_history() -> None:
    history = History()
    history.add(0, {0: 0}, ONE)
    history.add(5, {0: 50}, ONE)
    history.add(10, {0: 20}, ONE)
    assert [each.time for each in history.looks] == [10]


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 120)), max_size=40),
    st.lists(st.frozensets(st.integers(0, 3), max_size=3), max_size=3),
)
def test_whatever_clock_and_offsets_do_no_estimate_is_absurd(
    looks: list[tuple[float, int]], owners: list[frozenset[int]]
) -> None:
    means = (1.0, 5.0, 10.0, 2.0)
    profile = Profile({0: [Stratum(25 * n, 25 * (n + 1), mean, 2.0) for n, mean in enumerate(means)], 1: []})
    history = History()
    for time, offset in looks:
        history.add(time, {0: offset}, profile, owners)
        told = estimate(history, profile, owners)
        assert 0.0 <= told.ratio <= 1.0
        assert told.rate is None or told.rate >= 0
        if told.likely is not None:
            assert told.low is not None
            assert told.high is not None
            assert 0.0 <= told.low <= told.likely <= told.high
    times = [each.time for each in history.looks]
    assert times == sorted(set(times))


@given(st.integers(0, 2000), st.integers(1, 5))
def test_what_is_done_and_what_is_left_add_up(offset: int, stretches: int) -> None:
    profile = Profile({0: [Stratum(100 * n, 100 * (n + 1), n + 1.0, 0.1) for n in range(stretches)]})
    left, error = profile.left({0: offset}, [0])
    assert profile.done({0: offset})[0] + left == pytest.approx(profile.total)
    assert error >= 0


def test_many_looks_are_thinned_out_and_the_first_stays() -> None:
    history = History()
    for time in range(5000):
        history.add(time, {0: time // 60}, ONE)
    assert len(history.looks) < 1000
    assert history.looks[-1].time == 4999
    assert history.done(2500, [0]) == pytest.approx(2500 // 60 * 10, abs=15)
