from __future__ import annotations

import pytest

from consumer.breaker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_are_let_through_until_one_fails() -> None:
    breaker = Breaker("read", Clock())
    assert all(breaker.allows() for _ in range(10))
    breaker.failed("gone")
    assert not any(breaker.allows() for _ in range(10))


def test_after_a_pause_one_call_is_the_trial() -> None:
    clock = Clock()
    breaker = Breaker("read", clock)
    breaker.failed("gone")
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.allows()
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_pauses_grow_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    clock = Clock()
    breaker = Breaker("read", clock)
    pauses = []
    for _ in range(10):
        breaker.failed("gone")
        before = clock.now
        while not breaker.allows():
            clock.now += 0.5
        pauses.append(clock.now - before)
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {LONGEST_PAUSE_SECONDS}
    breaker.succeeded()
    breaker.failed("gone again")
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.allows()


def test_only_changes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    breaker = Breaker("read", Clock())
    breaker.succeeded()
    for _ in range(5):
        breaker.failed("gone")
    for _ in range(5):
        breaker.succeeded()
    told = capsys.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if "cache_" in line]
    assert len(lines) == 2, lines
    assert "cache_fails" in lines[0]
    assert "gone" in lines[0]
    assert "cache_works_again" in lines[1]
