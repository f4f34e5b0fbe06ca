from __future__ import annotations

from pathlib import Path

import pytest

from embedstream.errors import ConfigError
from embedstream.settings import as_variables, load, load_with_sources, shown


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flags_win_over_variables_over_the_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("embedstream.toml").write_text(
        '[encoder]\nmodel = "file"\ndevice = "file"\nprecision = "fp32"\n[consumer]\ngroup = "file"\n'
    )
    monkeypatch.setenv("EMBEDSTREAM_ENCODER__MODEL", "variable")
    monkeypatch.setenv("EMBEDSTREAM_ENCODER__DEVICE", "variable")
    loaded = load_with_sources(flags={"encoder.model": "flag", "encoder.token_budget": None})
    encoder = loaded.settings.encoder
    assert (encoder.model, encoder.device, encoder.precision) == ("flag", "variable", "fp32")
    assert encoder.token_budget is None
    assert loaded.source("encoder.model") == "--model"
    assert loaded.source("encoder.device") == "EMBEDSTREAM_ENCODER__DEVICE"
    assert loaded.source("encoder.precision") == "embedstream.toml"
    assert loaded.source("kafka.bootstrap_servers") == "default"


@pytest.mark.parametrize("write", ["quoted", "bare", "variable"])
def test_librdkafka_properties_pass_through_however_they_are_written(
    write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if write == "quoted":
        Path("embedstream.toml").write_text('[kafka.client]\n"sasl.username" = "me"\n')
    elif write == "bare":
        Path("embedstream.toml").write_text('[kafka.client]\nsasl.username = "me"\n')
    else:
        monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT__SASL_USERNAME", "me")
    assert load().kafka.client == {"sasl.username": "me"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"encoder.precision": "fp8"}, "encoder.precision = 'fp8' (from --precision)"),
        ({"consumer.window_seconds": -1}, "consumer.window_seconds = -1 (from --window-seconds)"),
        ({"consumer.instance_id": "a b"}, "may hold letters"),
        ({"encoder.modle": "x"}, "did you mean encoder.model?"),
    ],
)
def test_a_wrong_setting_names_itself_its_source_and_the_mend(flags: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(flags=flags)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 78


def test_an_unknown_variable_is_an_error_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_CONSUMER__GRUOP", "x")
    with pytest.raises(ConfigError, match="did you mean EMBEDSTREAM_CONSUMER__GROUP"):
        load()


def test_a_wrong_value_in_the_file_names_the_file() -> None:
    Path("my.toml").write_text("[consumer]\nwindow_seconds = 0\n")
    with pytest.raises(ConfigError, match=r"consumer.window_seconds = 0 \(from my.toml\)"):
        load(Path("my.toml"))


def test_a_file_that_is_missing_or_no_toml_is_one_line() -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load(Path("absent.toml"))
    Path("bad.toml").write_text("[[[")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(Path("bad.toml"))


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD", "hunter2")
    rows = list(shown(load_with_sources()))
    assert ("kafka.client.sasl.password", "********", "EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD") in rows
    assert "hunter2" not in str(rows)


def test_a_secret_of_the_wrong_type_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT", '{"sasl.password": ["hunter2"]}')
    try:
        load()
    except ConfigError as error:
        assert "hunter2" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("variable", "name", "secret"),
    [
        ("EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD_FILE", "kafka.client.sasl.password", "hush \t=#1e5"),
        ("EMBEDSTREAM_EXPORT__QDRANT_API_KEY_FILE", "export.qdrant_api_key", "hush \t=#1e5"),
        # A bearer token has no blanks.
        ("EMBEDSTREAM_METRICS__TOKEN_FILE", "metrics.token", "hush=#1e5"),
        ("EMBEDSTREAM_FLEET__API_KEY_FILE", "fleet.api_key", "hush \t=#1e5"),
    ],
)
def test_a_secret_may_be_in_a_file(
    variable: str, name: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret").write_text(secret + "\n")
    monkeypatch.setenv(variable, "secret")
    monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT__SASL_USERNAME", "me")
    loaded = load_with_sources()
    values = loaded.settings.model_dump()
    *path, last = name.split(".", 2) if name.startswith("kafka.client") else name.split(".")
    for each in path:
        values = values[each]
    assert values[last] == secret
    assert not any("hush" in value for _, value, _ in shown(loaded))
    assert not any(key.endswith("file") for key in loaded.settings.kafka.client)


def test_a_secret_in_a_file_that_is_not_there_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD_FILE", "absent")
    with pytest.raises(ConfigError, match="EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD_FILE names a file"):
        load()


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("hush")
    monkeypatch.setenv("EMBEDSTREAM_METRICS__TOKEN_FILE", "secret")
    monkeypatch.setenv("EMBEDSTREAM_METRICS__TOKEN", "hush-hush")
    with pytest.raises(ConfigError, match="both EMBEDSTREAM_METRICS__TOKEN and"):
        load()


def test_a_count_of_tokens_is_no_secret() -> None:
    rows = {name: value for name, value, _ in shown(load_with_sources(flags={"encoder.token_budget": 4096}))}
    assert rows["encoder.token_budget"] == "4096"


def test_what_is_no_default_can_be_set_elsewhere_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {
        "consumer.until_drained": True,
        "encoder.model": "m",
        "producer.include": ("*.md", "*.txt"),
        "kafka.client": {"sasl.password": "p,=1"},
    }
    before = load_with_sources(flags=flags)
    variables = as_variables(before)
    assert set(variables) == {
        "EMBEDSTREAM_CONSUMER__UNTIL_DRAINED",
        "EMBEDSTREAM_ENCODER__MODEL",
        "EMBEDSTREAM_PRODUCER__INCLUDE",
        "EMBEDSTREAM_KAFKA__CLIENT__SASL_PASSWORD",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load().model_dump() == before.settings.model_dump()


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://me:hunter2@cache.example:6379/1", "redis://********@cache.example:6379/1"),
        ("rediss://:hunt@er2:@cache.example", "rediss://********@cache.example"),
        (
            "redis://cache.example?db=1&password=hunter2&x=1",
            "redis://cache.example?db=1&password=********&x=1",
        ),
        ("redis://cache.example:6379/0", "redis://cache.example:6379/0"),
    ],
)
def test_passwords_in_a_url_are_hidden(url: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_CACHE__URL", url)
    loaded = load_with_sources()
    assert loaded.settings.cache.url == url
    rows = list(shown(loaded))
    assert ("cache.url", seen, "EMBEDSTREAM_CACHE__URL") in rows
    assert not any("hunt" in str(row) or "er2" in str(row) for row in rows)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@cache",
        "me:hunter2@cache:6379",
        "redis://:hunter2@",
        "redis://h:hunter2",
        "hunter2",
        "redis://h/hunter2",
        "redis://:a/hunter2@h",
    ],
)
def test_a_wrong_url_is_told_without_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_CACHE__URL", url)
    with pytest.raises(ConfigError, match=r"cache.url \(from EMBEDSTREAM_CACHE__URL\) is wrong") as error:
        load()
    assert "hunter2" not in str(error.value)
    assert "redis://" in str(error.value)


@pytest.mark.parametrize(
    ("ttl", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("60", 60)]
)
def test_a_time_is_seconds_or_has_a_unit(ttl: str, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSTREAM_CACHE__TTL", ttl)
    assert load().cache.ttl == seconds


@pytest.mark.parametrize("ttl", ["0s", "1w", "d", "-1d", "1.5h"])
def test_a_time_that_is_none_is_refused(ttl: str) -> None:
    with pytest.raises(ConfigError, match=r"cache\.ttl"):
        load(flags={"cache.ttl": ttl})
