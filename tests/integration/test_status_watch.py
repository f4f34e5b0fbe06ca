"""`status --watch` as it hangs on a wall."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from embedstream.broker import EmbeddedBroker
from tests.consuming import documents, send
from tests.kafka import make_topics, wait_until

pytestmark = pytest.mark.slow


def test_it_outlasts_a_broker_that_is_away_and_says_so(
    tmp_path: Path, daemon: Callable[..., subprocess.Popen[bytes]]
) -> None:
    log = tmp_path / "status.log"
    with EmbeddedBroker(tmp_path / "broker") as broker:
        topics = make_topics(broker.bootstrap)
        send(topics, documents(30))
        flags = ("--watch", "--interval", "0.2", "--daemon", "127.0.0.1:1")
        watching = daemon("status", *topics.flags, *flags, log=log)
        wait_until(lambda: log.read_text().count("30 records") > 2, 60, "it looks again and again")
        assert "no Kafka broker answers" not in log.read_text()
    wait_until(lambda: log.read_text().count("no Kafka broker answers") > 1, 90, "it says that it is old")
    # Beneath what it saw last.
    last = log.read_text().split("the last look, and now:")[1]
    assert "30 records" in last
    assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert "Traceback" not in log.read_text()
