"""What a schema registry that fails, refuses or is none means to a user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from embedstream import registry
from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.registry import read_ids, record_header
from embedstream.service_settings import SchemaRegistrySettings
from embedstream.settings import load, load_with_sources, shown
from schemas.avro import confluent_header, current, single_object_header
from schemas.wire import WireError, decode_document, use_registry
from tests.brokers import free_ports
from tests.registry import Gate
from tests.unit.consumer.items import a_value


@pytest.fixture(autouse=True)
def _soon_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "RETRY_MS", 1)
    monkeypatch.setattr(registry, "LONGEST_RETRY_MS", 5)
    yield
    use_registry(None)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def settings(url: str, **others: Any) -> SchemaRegistrySettings:
    return SchemaRegistrySettings(url=url, **others)


def framed(schema_id: int, value: bytes) -> bytes:
    return confluent_header(schema_id) + value[10:]


def schema_answer(schema: object, kind: str = "AVRO") -> tuple[int, bytes]:
    return 200, json.dumps({"schema": json.dumps(schema), "schemaType": kind}).encode()


def test_without_a_registry_records_name_their_schema_by_its_fingerprint() -> None:
    none = SchemaRegistrySettings()
    assert record_header(none, "document", "documents") == single_object_header("document")
    assert record_header(none, "embedding", "embeddings") == single_object_header("embedding")


def test_a_schema_is_registered_under_the_topics_subject(gate: Gate) -> None:
    gate.answer = (200, b'{"id": 258}')
    assert record_header(settings(gate.url), "document", "my topic") == b"\0\0\0\1\2"
    assert gate.requests == ["POST /subjects/my%20topic-value/versions?normalize=False"]


def test_nobody_there_is_69() -> None:
    (port,) = free_ports(1)
    nobody = settings(f"http://127.0.0.1:{port}")
    with pytest.raises(ServiceUnavailableError, match=r"no schema registry answers at schema_registry\.url"):
        record_header(nobody, "document", "documents")
    read_ids(nobody)
    with pytest.raises(ServiceUnavailableError, match=r"no schema registry answers at schema_registry\.url"):
        decode_document(framed(7, a_value("text")))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_registry_that_fails_is_69(gate: Gate, status: int) -> None:
    gate.answer = (status, b'{"error_code": 50001, "message": "the store is gone"}')
    with pytest.raises(ServiceUnavailableError, match="the store is gone"):
        record_header(settings(gate.url), "document", "documents")
    assert len(gate.requests) == 1 + registry.RETRIES


@pytest.mark.parametrize("status", [409, 422])
def test_a_schema_that_is_refused_is_78_with_the_subject_and_the_mend(gate: Gate, status: int) -> None:
    gate.answer = (status, b'{"error_code": 409, "message": "incompatible"}')
    with pytest.raises(ConfigError, match=r"'documents-value': incompatible.*compatibility") as error:
        record_header(settings(gate.url), "document", "documents")
    assert error.value.exit_code == 78
    assert len(gate.requests) == 1


@pytest.mark.parametrize("user", [{}, {"username": "me", "password": "hunter2"}])
def test_a_user_that_is_refused_is_78_and_the_password_is_not_told(gate: Gate, user: dict[str, str]) -> None:
    gate.user = "me:right"
    with pytest.raises(ConfigError, match=r"schema_registry\.username") as error:
        record_header(settings(gate.url, **user), "document", "documents")
    assert "hunter2" not in str(error.value)


def test_credentials_are_sent(gate: Gate) -> None:
    gate.user, gate.answer = "me:right:really", (200, b'{"id": 1}')
    right = settings(gate.url, username="me", password="right:really")
    assert record_header(right, "document", "documents") == b"\0\0\0\0\1"


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>a page</html>"),
        (404, b"<html>not here</html>"),
        (404, b'{"error_code": 404}'),
        (200, b"[]"),
    ],
)
def test_what_is_no_registry_is_78(gate: Gate, answer: tuple[int, bytes]) -> None:
    gate.answer = answer
    with pytest.raises(ConfigError, match=r"schema_registry\.url"):
        record_header(settings(gate.url), "document", "documents")
    read_ids(settings(gate.url))
    with pytest.raises(ConfigError, match=r"schema_registry\.url"):
        decode_document(framed(7, a_value("text")))


def test_an_id_is_asked_for_once_however_many_records_have_it(gate: Gate) -> None:
    gate.answer = schema_answer(current("document"))
    read_ids(settings(gate.url))
    for number in range(100):
        assert decode_document(framed(7, a_value("text", number))).content == "text"
    assert gate.requests == ["GET /schemas/ids/7"]


def test_an_id_that_is_unknown_is_asked_for_once_a_minute(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.answer = (404, b'{"error_code": 40403, "message": "Schema not found"}')
    read_ids(settings(gate.url))
    for _ in range(20):
        with pytest.raises(WireError, match="no Avro schema of the id 7") as error:
            decode_document(framed(7, a_value("text")))
        assert error.value.reason == "unknown_schema"
    assert len(gate.requests) == 1
    monkeypatch.setattr(registry, "UNKNOWN_SECONDS", 0.0)
    read_ids(settings(gate.url))
    for _ in range(2):
        with pytest.raises(WireError):
            decode_document(framed(7, a_value("text")))
    gate.answer = schema_answer(current("document"))
    assert decode_document(framed(7, a_value("text"))).content == "text"


def test_bytes_that_are_no_id_are_not_asked_for(gate: Gate) -> None:
    gate.answer = (404, b'{"error_code": 404, "message": "not a number of 32 bits"}')
    read_ids(settings(gate.url))
    with pytest.raises(WireError, match="unknown_schema"):
        decode_document(b"\0\xff\xff\xff\xffwhat")
    for cut in (b"\0", b"\0\0\0\1"):
        with pytest.raises(WireError, match="ends within its header"):
            decode_document(cut)
    assert not gate.requests


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "object"}, "JSON"),
        ({"type": "record", "name": "Other", "fields": [{"name": "a", "type": "string"}]}, "AVRO"),
        ({"type": "nothing"}, "AVRO"),
        ("string", "AVRO"),
        (["null", "string"], "AVRO"),
        (None, "AVRO"),
        (current("embedding"), "AVRO"),
    ],
)
def test_an_id_of_something_else_is_an_unknown_schema(gate: Gate, schema: object, kind: str) -> None:
    gate.answer = schema_answer(schema, kind)
    read_ids(settings(gate.url))
    with pytest.raises(WireError) as error:
        decode_document(framed(7, a_value("text")))
    assert error.value.reason == "unknown_schema"


def test_settings_are_checked_before_anything_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, told in (
        ("URL", "registry:8081", "http://HOST:PORT"),
        ("URL", "http://me:hunter2@registry", "settings of their own"),
        ("USERNAME", "me", "both"),
        ("PASSWORD", "hunter2", "both"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"EMBEDSTREAM_SCHEMA_REGISTRY__{name}", value)
            with pytest.raises(ConfigError, match=told) as error:
                load()
            assert "schema_registry" in str(error.value)
            assert "hunter2" not in str(error.value)


def test_credentials_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_SCHEMA_REGISTRY__USERNAME", "hunter1")
    monkeypatch.setenv("EMBEDSTREAM_SCHEMA_REGISTRY__PASSWORD", "hunter2")
    assert "hunter" not in str(list(shown(load_with_sources())))
