"""With a real schema registry: what this project writes, others read, and the other way round."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from embedstream.errors import ConfigError
from embedstream.registry import has_schema
from embedstream.settings import SchemaRegistrySettings
from schemas.avro import current
from tests.brokers import BrokerHandle, free_ports
from tests.cli import run_cli
from tests.consuming import documents, outcome, send
from tests.daemons import Daemons
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import decode
from tests.registry import Gate, SchemaRegistry

pytestmark = pytest.mark.slow

TEXTS = [
    "The sea is never still.",
    "Bread needs flour, water, salt and time.",
    "At night the telescope is opened.",
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SchemaRegistry]:
    with SchemaRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def gate(registry: SchemaRegistry) -> Iterator[Gate]:
    with Gate(registry.url, "me:secret") as gate:
        yield gate


@pytest.fixture
def topics(embedded_broker: BrokerHandle) -> Topics:
    return make_topics(embedded_broker.bootstrap)


def client(registry: SchemaRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": registry.url})


def environment(gate: Gate) -> dict[str, str]:
    return {
        "EMBEDSTREAM_SCHEMA_REGISTRY__URL": gate.url,
        "EMBEDSTREAM_SCHEMA_REGISTRY__USERNAME": "me",
        "EMBEDSTREAM_SCHEMA_REGISTRY__PASSWORD": "secret",
    }


def corpus(folder: Path, name: str = "corpus") -> Path:
    root = folder / name
    root.mkdir()
    for number, text in enumerate(TEXTS):
        (root / f"{name}-{number}.txt").write_text(f"{text} This is of the corpus {name}.")
    return root


def produced(
    topics: Topics, root: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run_cli("produce", str(root), *topics.flags[:4], "--no-ledger", env=env)


def ran(*args: str | Path, env: dict[str, str] | None = None) -> Any:
    """The JSON document that a command prints, having ended with 0."""
    done = run_cli(*args, "--json", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def plain(value: Any) -> Any:
    """A record as fastavro reads it without logical types."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        return round(value.astimezone(UTC).timestamp() * 1000)
    return value


def test_what_is_written_with_a_registry_the_stock_deserializer_reads(
    topics: Topics, daemons: Daemons, registry: SchemaRegistry, gate: Gate, tmp_path: Path
) -> None:
    env = environment(gate)
    done = produced(topics, corpus(tmp_path), env)
    assert done.returncode == 0, done.stderr
    assert daemons.start(topics, "--until-drained", env=env).wait(60) == 0
    stock = client(registry)
    assert {f"{topics.documents}-value", f"{topics.embeddings}-value"} <= set(stock.get_subjects())
    deserializer = AvroDeserializer(stock)
    for name, topic in (("document", topics.documents), ("embedding", topics.embeddings)):
        messages = read_all(topics.bootstrap, topic)
        assert len(messages) == len(TEXTS)
        for message in messages:
            value = message.value() or b""
            assert value[:1] == b"\0"
            read = deserializer(value, SerializationContext(topic, MessageField.VALUE))
            assert isinstance(read, dict)
            assert plain(read) == plain(decode(name, value))
            if name == "embedding":
                assert abs(float(np.linalg.norm(read["vector"])) - 1) < 1e-3
    assert outcome(topics).is_exactly_once
    # Two schemas registered and one id looked up, whatever the number of records.
    assert len([each for each in gate.requests if each.startswith("POST")]) == 2
    assert len([each for each in gate.requests if each.startswith("GET")]) == 1


def test_every_command_reads_a_topic_with_both_framings(
    topics: Topics, daemons: Daemons, gate: Gate, tmp_path: Path
) -> None:
    env = environment(gate)
    for name, used in (("plain", None), ("registered", env)):
        assert produced(topics, corpus(tmp_path, name), used).returncode == 0
        assert daemons.start(topics, "--until-drained", env=used).wait(60) == 0
    send(topics, [b"\0\0\0\xff\xffno such id", b"no Avro"])
    assert daemons.start(topics, "--until-drained", env=env).wait(60) == 0
    first = {(message.value() or b"")[:1] for message in read_all(topics.bootstrap, topics.embeddings)}
    assert first == {b"\0", b"\xc3"}
    group = ("--group", topics.documents)
    # With the registry, and without: then an id stands for the current schema.
    for used in (env, None):
        assert ran("verify", *topics.flags, *group, env=used)["ok"]
        out = tmp_path / f"{'with' if used else 'without'}.parquet"
        assert ran("export", *topics.flags, "--to", out, env=used)["rows"] == 2 * len(TEXTS)
    letters = read_all(topics.bootstrap, topics.dead_letters)
    reasons = {dict(letter.headers() or [])["error.class"] for letter in letters}
    assert reasons == {b"unknown_schema", b"not_avro"}
    flags = (*topics.flags[:2], *topics.flags[-2:])
    assert "unknown_schema" in json.dumps(ran("dlq", "list", *flags, env=env))


def test_documents_of_another_producer_are_read_with_its_own_schema(
    topics: Topics, daemons: Daemons, registry: SchemaRegistry, gate: Gate
) -> None:
    theirs = current("document")
    extra = {"name": "reviewer", "type": ["null", "string"], "default": None}
    theirs["fields"] = [theirs["fields"][-1], extra, *theirs["fields"][:-1]]
    serializer = AvroSerializer(client(registry), json.dumps(theirs))
    context = SerializationContext(topics.documents, MessageField.VALUE)
    values = []
    for value in documents(20):
        record = decode("document", value or b"") | {"reviewer": "someone"}
        values.append(serializer(record, context))
    send(topics, values)
    assert daemons.start(topics, "--until-drained", env=environment(gate)).wait(60) == 0
    found = outcome(topics, writer=theirs)
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters) == (20, 0)
    messages = read_all(topics.bootstrap, topics.embeddings)
    records = [decode("embedding", message.value() or b"") for message in messages]
    assert {each["metadata"]["title"] for each in records} == {"A test"}


def test_a_registry_that_goes_after_the_start_stops_nothing_that_is_known(
    topics: Topics, daemons: Daemons, gate: Gate, tmp_path: Path
) -> None:
    env = environment(gate)
    assert produced(topics, corpus(tmp_path, "first"), env).returncode == 0
    daemon = daemons.start(topics, env=env)
    wait_until(lambda: len(read_all(topics.bootstrap, topics.embeddings)) == len(TEXTS), 60)
    documents_now = read_all(topics.bootstrap, topics.documents)
    gate.answer = (503, b"{}")
    again = [message.value() for message in documents_now]
    send(topics, again)
    wait_until(lambda: len(read_all(topics.bootstrap, topics.embeddings)) == 2 * len(TEXTS), 60)
    assert daemon.process.poll() is None


def test_a_schema_that_the_registry_refuses_is_78_with_the_mend(
    topics: Topics, daemons: Daemons, registry: SchemaRegistry, gate: Gate, tmp_path: Path
) -> None:
    stock = client(registry)
    for name, topic in (("document", topics.documents), ("embedding", topics.embeddings)):
        other = current(name)  # type: ignore[arg-type]
        other["fields"] = [{"name": "another", "type": "string"}]
        stock.register_schema(f"{topic}-value", Schema(json.dumps(other), "AVRO"))
        stock.set_compatibility(f"{topic}-value", "FULL")
    env = environment(gate)
    done = produced(topics, corpus(tmp_path), env)
    assert done.returncode == 78, done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert f"'{topics.documents}-value'" in told
    assert "compatibility" in told
    assert "Traceback" not in done.stderr
    refused = daemons.start(topics, env=env).refused()
    assert f"'{topics.embeddings}-value'" in refused
    assert not read_all(topics.bootstrap, topics.documents)


@pytest.mark.parametrize("wrong", ["down", "password"])
def test_a_registry_that_is_down_is_69_and_one_that_refuses_the_user_78(
    topics: Topics, daemons: Daemons, registry: SchemaRegistry, tmp_path: Path, wrong: str
) -> None:
    with Gate(registry.url, "me:another") as gate:
        env, code = environment(gate), 78
        if wrong == "down":
            (port,) = free_ports(1)
            env["EMBEDSTREAM_SCHEMA_REGISTRY__URL"] = f"http://127.0.0.1:{port}"
            code = 69
        daemon = daemons.start(topics, env=env)
        done = produced(topics, corpus(tmp_path), env)
        assert done.returncode == code, done.stderr
        assert daemon.wait() == code, daemon.log
        for told in (done.stderr.strip().splitlines()[-1], daemon.only_line):
            assert "schema_registry." in told
            assert "secret" not in told


def test_doctor_looks_at_the_registry_and_changes_nothing(registry: SchemaRegistry) -> None:
    settings = SchemaRegistrySettings(url=registry.url)
    stock = client(registry)
    stock.register_schema("doctor-value", Schema(json.dumps(current("document")), "AVRO"))
    before = stock.get_subjects()
    assert has_schema(settings, "doctor-value")
    assert not has_schema(settings, "no-topic-value")
    assert stock.get_subjects() == before
    with (
        Gate(registry.url, "me:another") as gate,
        pytest.raises(ConfigError, match=r"schema_registry\.url .* refuses this user"),
    ):
        has_schema(SchemaRegistrySettings(url=gate.url), "no-topic-value")
