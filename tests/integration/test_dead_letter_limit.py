"""Too many dead letters: the daemon stops, and nothing of what made it stop is committed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.consuming import committed, documents, outcome, send
from tests.kafka import Topics, read_all

Start = Callable[..., subprocess.Popen[bytes]]

ONE_RECORD_WINDOWS = ("--window-bytes", "1024")
POISON: bytes = b"no Avro" * 200


@pytest.mark.slow
def test_a_topic_of_poison_is_not_emptied_into_the_dead_letters_however_often_it_is_started(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    send(topics, [POISON] * 150)
    for number in range(2):
        assert hash_daemon("--until-drained", *ONE_RECORD_WINDOWS).wait(60) == 4
        log = (tmp_path / f"daemon-{number}.log").read_text()
        assert "window_delivered" not in log
        assert "Traceback" not in log
        last = log.splitlines()[-1]
        assert "100 of the last 100 records (100.0%)" in last
        assert "not_avro (100)" in last
        assert "--max-dead-letter-ratio" in last
    assert read_all(topics.bootstrap, topics.dead_letters, "read_uncommitted") == []
    assert committed(topics) == {}


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_what_was_good_before_stays_delivered_and_a_higher_limit_goes_on(
    topics: Topics, hash_daemon: Start, delivery: str
) -> None:
    good, bad = documents(300), [POISON] * 120
    send(topics, [*good, *bad])
    flags = ("--until-drained", "--delivery", delivery, "--window-bytes", "20000")
    assert hash_daemon(*flags, "--max-dead-letter-ratio", "0.1").wait(60) == 4
    stopped = outcome(topics)
    assert stopped.is_exactly_once, stopped
    assert stopped.dead_letters <= 0.1 * stopped.inputs
    assert stopped.inputs >= 50, "at least the windows before the first poison"
    assert hash_daemon(*flags, "--max-dead-letter-ratio", "1").wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters) == (420, 120)


@pytest.mark.slow
def test_a_few_bad_records_that_are_all_there_is_are_delivered(topics: Topics, hash_daemon: Start) -> None:
    send(topics, [POISON] * 40)
    assert hash_daemon("--until-drained", *ONE_RECORD_WINDOWS).wait(60) == 0
    assert outcome(topics).dead_letters == 40
    assert hash_daemon("--until-drained", "--max-dead-letter-ratio", "0").wait(60) == 0
    send(topics, [POISON])
    assert hash_daemon("--until-drained", "--max-dead-letter-ratio", "0").wait(60) == 4
    assert outcome(topics).dead_letters == 40
