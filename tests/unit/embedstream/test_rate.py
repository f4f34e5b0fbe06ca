from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from embedstream.rate import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@given(st.lists(st.tuples(st.integers(0, 5_000), st.floats(0, 3)), max_size=40))
def test_no_run_is_ever_faster_than_the_rate_allows(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    limit = RateLimit(1000, lambda: clock.now, clock.sleep)
    total = 0
    marks = [(clock.now, 0)]
    for size, work in steps:
        total += size
        limit.wait(total, lambda: False)
        marks.append((clock.now, total))
        clock.now += work
    # After a pause, a second may be made up for.
    for i, (start, before) in enumerate(marks):
        for end, after in marks[i:]:
            assert after - before <= 1000 * (end - start + 1) + 5001


def test_a_steady_run_takes_as_long_as_its_bytes_do() -> None:
    clock = Clock()
    limit = RateLimit(1000, lambda: clock.now, clock.sleep)
    for n in range(1, 101):
        limit.wait(n * 100, lambda: False)
    assert 9.9 <= clock.now - 100 <= 10.1
    assert max(clock.naps) <= 0.1


def test_what_may_come_at_once_is_a_second_s() -> None:
    assert RateLimit(1000).burst == 1000
    assert RateLimit(None).burst == math.inf


def test_a_stop_ends_the_wait_and_without_a_rate_there_is_none() -> None:
    clock = Clock()
    RateLimit(1, lambda: clock.now, clock.sleep).wait(1_000_000, lambda: len(clock.naps) >= 3)
    assert len(clock.naps) == 3
    RateLimit(None, lambda: clock.now, clock.sleep).wait(1_000_000, lambda: False)
    assert len(clock.naps) == 3
