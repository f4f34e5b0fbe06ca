from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from producer import progress as module
from producer.progress import Progress
from tests.kafka import wait_until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BAR_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LOG_SECONDS", 1e-9)
    monkeypatch.setattr(module, "_MEASURE_AFTER_SECONDS", 0.0)


def test_a_terminal_gets_a_bar_with_documents_speed_and_time_left(
    every_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(shown=True, measure=lambda: [5_000_000, 5_000_000]) as progress:
        for _ in range(1234):
            progress.documents += 1

        def shown() -> bool:
            progress.read(1000)
            return re.search(r"\d:\d\d:\d\d", terminal.getvalue()) is not None

        wait_until(shown, message="no time left was shown")
    assert "1,234 documents" in terminal.getvalue()
    assert "MB/s" in terminal.getvalue()


def test_elsewhere_events_are_logged_with_the_time_left(
    every_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        structlog.testing.capture_logs() as events,
        Progress(shown=True, measure=lambda: [3_000_000]) as progress,
    ):
        progress.documents += 1

        def told() -> bool:
            progress.read(1000)
            return events[-1]["seconds_left"] is not None

        wait_until(told, message="the time left was never known")
    assert events[-1]["event"] == "produce_progress"
    assert events[-1]["documents"] == 1
    assert events[-1]["megabytes_per_second"] > 0
    json.dumps(events)


def test_unasked_nothing_is_shown_or_measured(capfd: pytest.CaptureFixture[str]) -> None:
    def measure() -> Iterator[int]:
        raise AssertionError
        yield 0

    with Progress(shown=False, measure=measure) as progress:
        progress.read(10)
        progress.documents += 1
        progress.show()
    assert (progress.bytes_read, progress.documents) == (10, 1)
    assert capfd.readouterr() == ("", "")


def test_a_corpus_that_is_known_is_not_walked_a_second_time(every_time: None) -> None:
    measured: list[bool] = []

    def measure() -> Iterator[int]:
        measured.append(True)
        yield 10**9

    with Progress(shown=True, measure=measure) as progress:
        progress.skipped(1_000_000)
        progress.read(1000)
        assert not progress._measures
        progress.read(100_000)
        wait_until(lambda: progress.total, message="the corpus was not measured")
    assert measured == [True]


def test_a_corpus_that_changes_while_it_is_measured_has_no_time_left(every_time: None) -> None:
    def measure() -> Iterator[int]:
        yield 1
        raise FileNotFoundError

    with structlog.testing.capture_logs() as events, Progress(shown=True, measure=measure) as progress:
        for _ in range(100):
            progress.read(1)
    assert {event["seconds_left"] for event in events} == {None}
