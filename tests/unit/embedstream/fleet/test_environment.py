from __future__ import annotations

from pathlib import Path

import pytest

from embedstream.errors import ConfigError, UsageError
from embedstream.fleet.environment import flags_of, plain_secrets, pod_environment, slot_environment
from embedstream.settings import load_with_sources

CLIENT = "EMBEDSTREAM_KAFKA__CLIENT__"
BROKER = {"kafka.bootstrap_servers": "kafka.example.org:9093"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def variables(**flags: object) -> dict[str, str]:
    given = {name.replace("__", "."): value for name, value in flags.items()}
    return pod_environment(load_with_sources(flags=BROKER | given))


def test_pods_get_this_machines_settings_but_for_its_own() -> None:
    found = variables(
        encoder__model="m",
        producer__rate="5MB",
        fleet__budget=5.0,
        export__qdrant_api_key="q",
        metrics__port=9401,
    )
    assert found["EMBEDSTREAM_ENCODER__MODEL"] == "m"
    assert found["EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS"] == "kafka.example.org:9093"
    # Where the proxy and the image's health check look, whatever this machine's own daemon has.
    assert found["EMBEDSTREAM_METRICS__PORT"] == "9400"
    assert not [name for name in found if "PRODUCER" in name or "FLEET" in name or "EXPORT" in name]


def test_certificates_go_as_what_they_hold() -> None:
    Path("ca.pem").write_text("-----BEGIN CERTIFICATE-----\nabc\n")
    found = variables(kafka__client={"ssl.ca.location": "ca.pem", "security.protocol": "SASL_SSL"})
    assert found[f"{CLIENT}SSL_CA_PEM"] == "-----BEGIN CERTIFICATE-----\nabc\n"
    assert f"{CLIENT}SSL_CA_LOCATION" not in found
    with pytest.raises(ConfigError, match=r"absent\.pem can't be read"):
        variables(kafka__client={"ssl.ca.location": "absent.pem"})
    with pytest.raises(ConfigError, match="SSL_KEYSTORE_LOCATION names a file of this machine"):
        variables(kafka__client={"ssl.keystore.location": "store.p12"})


def test_a_secret_comes_from_where_runpod_keeps_it_or_is_named_as_plain() -> None:
    client = {"sasl.password": "hush", "ssl.key.password": "hush too"}
    found = variables(
        kafka__client=client, metrics__token="hush-hush", fleet__secrets=("kafka.client.sasl.password=pw",)
    )
    assert found[f"{CLIENT}SASL_PASSWORD"] == "{{ RUNPOD_SECRET_pw }}"
    assert plain_secrets(found) == [f"{CLIENT}SSL_KEY_PASSWORD", "EMBEDSTREAM_METRICS__TOKEN"]


@pytest.mark.parametrize("entry", ["kafka.client.sasl.password", "=x", "a=", "a=b c"])
def test_a_secret_that_is_no_pair_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="SETTING=NAME"):
        variables(fleet__secrets=(entry,))


@pytest.mark.parametrize(
    "servers",
    [
        "127.0.0.1:9092",
        "localhost:9092",
        "localhost",
        "kafka.example.org:1,127.0.0.2:2",
        "[::1]:9092",
        "SASL_SSL://127.0.0.1:9092",
    ],
)
def test_brokers_on_this_machine_are_refused(servers: str) -> None:
    with pytest.raises(ConfigError, match="pods can't reach"):
        variables(kafka__bootstrap_servers=servers)


def test_what_was_given_as_flags_can_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD", "hush")
    monkeypatch.setenv("EMBEDSTREAM_CONSUMER__GROUP", "g")
    given = BROKER | {"encoder.model": "m", "fleet.secrets": ["cache.url=c"], "kafka.allow_plaintext": True}
    found = flags_of(load_with_sources(flags=given | {"fleet.name": "f"}))
    assert found == given


def test_a_slot_has_the_same_name_whichever_pod_takes_it() -> None:
    found = slot_environment({"A": "b"}, "job-1", "job/digest", 0.34, None)
    assert found["EMBEDSTREAM_CONSUMER__INSTANCE_ID"] == "job-1"
    assert found["EMBEDSTREAM_COST__PRICE_PER_HOUR"] == "0.34"
    assert "EMBEDSTREAM_POD__DEADLINE" not in found
