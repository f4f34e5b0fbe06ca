"""However a daemon hangs when it is to end, it is gone in time, with the right exit code, and says so."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import ApacheCluster
from tests.consuming import committed, documents, outcome, send
from tests.kafka import Topics, make_topics, wait_until
from tests.unit.consumer.items import a_value

Start = Callable[..., subprocess.Popen[bytes]]

# A word that is one token; the encoder hangs on it.
HANGING = "arsenic"
STOP = {"EMBEDSTREAM_CONSUMER__STOP_SECONDS": "4"}
# The daemon's own bound is 4 s; a machine may be slow.
GONE_SECONDS = 30.0


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "daemon-0.log").read_text()


def wait_logged(tmp_path: Path, text: str) -> None:
    wait_until(lambda: text in log_of(tmp_path), 60, f"{text!r} is not logged")


def wait_quiet(tmp_path: Path, seconds: float = 2.0) -> None:
    """Waits until nothing has been logged for a while: the end of a partition is committed as well."""
    since, said = time.monotonic(), ""

    def is_quiet() -> bool:
        nonlocal since, said
        log = log_of(tmp_path)
        if log != said:
            since, said = time.monotonic(), log
        return time.monotonic() - since > seconds

    wait_until(is_quiet, 60, "the daemon does not come to rest")


def events(log: str) -> list[str]:
    """Those of its end."""
    assert "Traceback" not in log
    names = ("stages_left_behind", "end_hangs", "left")
    return [name for line in log.splitlines() for name in names if f'"event": "{name}"' in line]


@pytest.fixture(scope="module")
def cluster(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheCluster]:
    """One node that a test may freeze."""
    with ApacheCluster(kafka_home, tmp_path_factory.mktemp("freezing")) as cluster:
        yield cluster


@pytest.fixture
def frozen(cluster: ApacheCluster) -> Iterator[Callable[[], None]]:
    """Freezes the broker until the test is over."""
    yield cluster.nodes[0].pause
    cluster.nodes[0].resume()
    cluster.wait_ready()


def test_a_daemon_that_still_loads_its_model_ends_at_once(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    daemon = hash_daemon(load_seconds=3600)
    wait_logged(tmp_path, "loading")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(GONE_SECONDS) == 0
    assert events(log_of(tmp_path)) == []


@pytest.mark.slow
def test_an_encoder_that_hangs_for_ever_is_left_behind_and_what_was_encoded_is_delivered(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    daemon = hash_daemon("--window-bytes", "8000", env=STOP, bad_words={HANGING: "hang"})
    send(topics, [*documents(100), a_value(HANGING)])
    wait_logged(tmp_path, "hanging")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(GONE_SECONDS) == 0
    log = log_of(tmp_path)
    assert events(log) == ["stages_left_behind", "left"]
    assert '"embed"' in next(line for line in log.splitlines() if "stages_left_behind" in line)
    assert hash_daemon("--until-drained").wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == 101


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_broker_that_freezes_before_the_leave_does_not_keep_a_daemon(
    cluster: ApacheCluster, frozen: Callable[[], None], hash_daemon_on: Start, tmp_path: Path, protocol: str
) -> None:
    topics = make_topics(cluster.bootstrap)
    daemon = hash_daemon_on(topics, env=STOP | {"EMBEDSTREAM_CONSUMER__GROUP_PROTOCOL": protocol})
    send(topics, documents(10))
    wait_until(lambda: sum(committed(topics).values()) == 10, 60, "all is committed")
    wait_quiet(tmp_path)
    frozen()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(GONE_SECONDS) == 0
    (said,) = events(log_of(tmp_path))
    assert said in ("end_hangs", "left")


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_broker_that_freezes_with_a_window_in_hand_makes_the_daemon_end_with_75(
    cluster: ApacheCluster, frozen: Callable[[], None], hash_daemon_on: Start, tmp_path: Path, delivery: str
) -> None:
    topics = make_topics(cluster.bootstrap)
    flags = ("--delivery", delivery, "--window-bytes", "8000")
    daemon = hash_daemon_on(topics, *flags, env=STOP)
    # Encoded much sooner than delivered: at any moment a window waits for its delivery.
    send(topics, documents(900))
    wait_until(lambda: sum(committed(topics).values()) >= 30, 60, "the daemon commits")
    frozen()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(GONE_SECONDS) == 75
    said = events(log_of(tmp_path))
    assert "left" not in said
    assert len(said) >= 1
    cluster.nodes[0].resume()
    cluster.wait_ready()
    assert hash_daemon_on(topics, *flags, "--until-drained").wait(90) == 0
    found = outcome(topics)
    assert found.inputs == 900
    assert not found.missing
    if delivery == "exactly-once":
        assert found.is_exactly_once, found
