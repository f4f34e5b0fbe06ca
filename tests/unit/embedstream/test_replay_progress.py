from __future__ import annotations

import pytest

from embedstream.replay_progress import Pace
from embedstream.replay_start import Start
from embedstream.topic_sample import Stretch

START = Start({0: 0, 1: 0}, {0: 0, 1: 100}, {0: 200, 1: 300})
# Partition 1 has records ten times as large.
STRETCHES = (Stretch(0, 0, 200, 8, 80), Stretch(1, 100, 300, 8, 800))


def test_the_time_left_goes_by_bytes_and_not_by_records() -> None:
    pace = Pace(START, STRETCHES)
    first = pace.look({}, 1000.0)
    assert (first.records, first.records_total, first.share) == (0, 400, 0.0)
    assert first.seconds_left is None
    # Half of the records, and a tenth of the bytes and some: 2,000 of 22,000 in 20 s.
    half = pace.look({0: 200}, 1020.0)
    assert half.records == 200
    assert half.share == pytest.approx(2_000 / 22_000)
    assert half.records_per_second == pytest.approx(10)
    assert half.seconds_left == pytest.approx(200)
    done = pace.look({0: 250, 1: 300}, 1040.0)
    assert done.is_done
    assert (done.records, done.share, done.seconds_left) == (400, 1.0, 0.0)


def test_a_replay_that_stands_still_has_no_time_left_to_tell() -> None:
    pace = Pace(START, STRETCHES)
    for now in range(100):
        found = pace.look({0: 50}, float(now))
    assert found.seconds_left is None
    assert found.records_per_second == 0


def test_the_pace_is_that_of_the_last_looks() -> None:
    pace = Pace(START, STRETCHES)
    for now in range(0, 310, 10):
        pace.look({}, float(now))
    for step in range(1, 31):
        found = pace.look({0: step}, 300.0 + 10 * step)
    # Of 31 looks the oldest is forgotten: 29 records in 290 s.
    assert found.records_per_second == pytest.approx(0.1)


def test_what_a_group_had_done_before_does_not_count() -> None:
    resumed = START.resumed({0: 150})
    assert resumed.begin == {0: 150, 1: 0}
    assert resumed.records == 50 + 300
    assert Pace(resumed, STRETCHES).look({0: 150, 1: 0}, 0.0).records == 0


def test_an_empty_topic_is_done_at_once() -> None:
    found = Pace(Start({0: 0}, {0: 0}, {0: 0}), ()).look({}, 0.0)
    assert (found.is_done, found.share) == (True, 1.0)
