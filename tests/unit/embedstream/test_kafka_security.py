from __future__ import annotations

import socket

import pytest
from confluent_kafka import KafkaError

from embedstream.errors import ConfigError
from embedstream.kafka import make_admin
from embedstream.kafka_security import Refusals, broker_addresses, refuse_plaintext
from embedstream.settings import KafkaSettings

PUBLIC = [
    "8.8.8.8",
    "8.8.8.8:9092",
    "[2606:4700::1111]:9092",
    "127.0.0.1:9092,1.1.1.1:9092",
    "PLAINTEXT://8.8.8.8:9092",
]
PRIVATE = [
    "127.0.0.1:9092",
    "localhost:9092",
    "10.1.2.3:9092",
    "192.168.0.9:9092",
    "[::1]:9092",
    "[fd00::7]:9092",
]


@pytest.mark.parametrize("servers", PUBLIC)
@pytest.mark.parametrize("protocol", ["plaintext", "sasl_plaintext", "SASL_PLAINTEXT", None])
def test_a_public_broker_is_not_spoken_to_in_plain(servers: str, protocol: str | None) -> None:
    client = {} if protocol is None else {"security.protocol": protocol}
    with pytest.raises(ConfigError, match="--allow-plaintext") as error:
        refuse_plaintext(servers, client)
    assert error.value.exit_code == 78


@pytest.mark.parametrize("servers", PRIVATE)
def test_a_broker_on_this_machine_or_a_private_network_is(servers: str) -> None:
    refuse_plaintext(servers, {})


@pytest.mark.parametrize("protocol", ["SASL_SSL", "ssl"])
def test_with_tls_any_broker_is(protocol: str) -> None:
    refuse_plaintext("8.8.8.8:9093", {"security.protocol": protocol})


def test_a_name_is_what_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"kafka": "10.0.0.5", "kafka.example.org": "8.8.8.8"}

    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in where:
            raise socket.gaierror("not known")
        return [(socket.AF_INET, 0, 0, "", (where[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    refuse_plaintext("kafka:9092", {})
    refuse_plaintext("nowhere.invalid:9092", {})
    with pytest.raises(ConfigError, match="is public"):
        refuse_plaintext("kafka.example.org:9092", {})


def test_what_a_private_broker_advertises_counts_too() -> None:
    with pytest.raises(ConfigError, match="the broker told of 8"):
        refuse_plaintext("8.8.8.8:9092", {}, what="the broker told of")


def test_every_client_is_made_so() -> None:
    with pytest.raises(ConfigError, match=r"8\.8\.8\.8"):
        make_admin(KafkaSettings(bootstrap_servers="8.8.8.8:9092"))
    make_admin(KafkaSettings(bootstrap_servers="8.8.8.8:9092", allow_plaintext=True))
    # Nor by a way round the check.
    for name in ("bootstrap.servers", "metadata.broker.list"):
        with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers only"):
            make_admin(KafkaSettings(client={name: "8.8.8.8:9092"}))


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        ("a:1, b:2", [("a:1", "a", 1), ("b:2", "b", 2)]),
        ("a", [("a", "a", 9092)]),
        ("SASL_SSL://a:1", [("SASL_SSL://a:1", "a", 1)]),
        ("[::1]:1,[::2]", [("[::1]:1", "::1", 1), ("[::2]", "::2", 9092)]),
    ],
)
def test_addresses_are_read_as_the_client_reads_them(servers: str, told: list[tuple[str, str, int]]) -> None:
    assert list(broker_addresses(servers)) == told


def test_a_refusal_is_explained_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals()
    client = {"sasl.username": "me", "sasl.password": "hush", "sasl.mechanism": "SCRAM-SHA-512"}
    assert refusals.explained("b:1", client) is None
    refusals.note(KafkaError(KafkaError._TRANSPORT))
    assert refusals.explained("b:1", client) is None
    refusals.note(KafkaError(KafkaError._AUTHENTICATION))
    told = str(refusals.explained("b:1", client))
    assert "refuses the user 'me'" in told
    assert "hush" not in told
    monkeypatch.setattr("time.monotonic", lambda: 1e12)
    assert refusals.explained("b:1", client) is None
