"""The schema registry, where one is configured: what records begin with, and what the ids of others mean.

    header = record_header(settings.schema_registry, "document", "documents")   # registers the schema
    read_ids(settings.schema_registry)      # from now on, ids that are met are looked up

A schema is registered once, when a producer or a daemon starts, and an id looked up when it is met first: no
record waits for the registry.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from embedstream.errors import ConfigError, EmbedstreamError, ServiceUnavailableError
from embedstream.logs import get_logger
from embedstream.service_settings import SchemaRegistrySettings
from schemas.avro import RecordName, Schema, confluent_header, current, single_object_header
from schemas.wire import use_registry

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import SchemaRegistryClient

__all__ = ["has_schema", "read_ids", "record_header"]

# A registry that is started again answers within that; the client waits longer after each attempt.
RETRIES = 4
RETRY_MS, LONGEST_RETRY_MS = 200, 2000
# An id that the registry does not know is asked for again, for it may be a copy that lags behind.
UNKNOWN_SECONDS = 60.0
UNKNOWN_IDS = 10_000
# A proxy may answer with a whole page.
MESSAGE_CHARS = 300
HIGHEST_ID = 2**31 - 1

# What a registry says, in its own code, of an id that it does not know; a wrong path is a plain 404.
NO_SCHEMA = 40403
# Of a subject, or of a version of it.
NO_SUBJECT = (40401, 40402)
REFUSED = (409, 422)
NOT_ALLOWED = (401, 403)
TOO_MANY, SERVER_ERROR = 429, 500

_log = get_logger("registry")


def record_header(settings: SchemaRegistrySettings, record: RecordName, topic: str) -> bytes:
    """What each record of a topic begins with: it names the schema that records are written with.

    With a registry, the schema is registered under the topic's subject, `TOPIC-value`.

    Raises:
        ServiceUnavailableError: The registry can't be reached.
        ConfigError: It refuses the schema or the credentials, is none, or the extra is missing.
    """
    if settings.url is None:
        return single_object_header(record)
    client = _client(settings)
    from confluent_kafka.schema_registry import Schema as RegistrySchema

    subject = f"{topic}-value"
    try:
        schema_id = client.register_schema(subject, RegistrySchema(json.dumps(current(record)), "AVRO"))
    except Exception as error:
        raise _explained(error, settings, subject) from None
    _log.info("schema_registered", subject=subject, id=schema_id)
    return confluent_header(schema_id)


def read_ids(settings: SchemaRegistrySettings) -> None:
    """From now on, look schema ids up in the registry when records with them are read, if there is one.

    Nothing is connected before that. Then what reads such a record may raise ServiceUnavailableError, if the
    registry can't be reached, or ConfigError, as `record_header` does.
    """
    use_registry(None if settings.url is None else _Lookup(settings))


def has_schema(settings: SchemaRegistrySettings, subject: str) -> bool:
    """Whether a schema is registered under a subject; nothing is changed.

    Raises:
        ServiceUnavailableError: The registry can't be reached.
        ConfigError: It is none, refuses the credentials, or the extra is missing.
    """
    client = _client(settings)
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    try:
        client.get_latest_version(subject)
    except SchemaRegistryError as error:
        if error.error_code in NO_SUBJECT:
            return False
        raise _explained(error, settings) from None
    except Exception as error:
        raise _explained(error, settings) from None
    return True


class _Lookup:
    """Asks the registry for the schema of an id."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        self._settings = settings
        self._made: SchemaRegistryClient | None = None
        self._unknown: dict[int, float] = {}

    def __call__(self, schema_id: int) -> Schema | None:
        now = time.monotonic()
        # Registries count in 32 bits with a sign: what is beyond comes from bytes that are no record.
        if schema_id > HIGHEST_ID or now < self._unknown.get(schema_id, 0.0):
            return None
        found = self._ask(schema_id)
        if found is None:
            # Bytes that are no record look like ids: so many are not kept.
            if len(self._unknown) >= UNKNOWN_IDS:
                self._unknown.clear()
            self._unknown[schema_id] = now + UNKNOWN_SECONDS
        return found

    def _ask(self, schema_id: int) -> Schema | None:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        self._made = self._made or _client(self._settings)
        try:
            schema = self._made.get_schema(schema_id)
            if schema.schema_type != "AVRO":
                return None
            found: Schema = json.loads(schema.schema_str or "null")
        except SchemaRegistryError as error:
            if error.error_code == NO_SCHEMA:
                return None
            raise _explained(error, self._settings) from None
        except Exception as error:
            raise _explained(error, self._settings) from None
        return found


def _client(settings: SchemaRegistrySettings) -> SchemaRegistryClient:
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError:
        raise ConfigError(
            "schema_registry.url needs the extra `registry`", "pip install 'embedstream[registry]'"
        ) from None
    conf = {
        "url": settings.url,
        "timeout": settings.timeout_seconds,
        "max.retries": RETRIES,
        "retries.wait.ms": RETRY_MS,
        "retries.max.wait.ms": LONGEST_RETRY_MS,
    }
    if settings.username is not None:
        conf["basic.auth.user.info"] = f"{settings.username}:{settings.password}"
    return SchemaRegistryClient(conf)


def _explained(
    error: Exception, settings: SchemaRegistrySettings, subject: str | None = None
) -> EmbedstreamError:
    """The error, with the setting to look at, that a failed request means to a user."""
    import httpx2
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    where = f"schema_registry.url {settings.url}"
    if isinstance(error, httpx2.TransportError):
        told = f"no schema registry answers at {where} ({error})"
        return ServiceUnavailableError(told, "check the address, and that the registry runs")
    if not isinstance(error, SchemaRegistryError):
        told = f"{where} does not answer as a schema registry does ({type(error).__name__}: {error})"
        return ConfigError(told, "correct it, with the path that belongs to it")
    status = error.http_status_code
    told = f"{str(error.error_message)[:MESSAGE_CHARS]} (HTTP status {status})"
    if status >= SERVER_ERROR or status == TOO_MANY:
        return ServiceUnavailableError(f"the schema registry at {where} fails: {told}", "try again")
    if status in NOT_ALLOWED:
        return ConfigError(
            f"the schema registry at {where} refuses this user: {told}",
            "check schema_registry.username and schema_registry.password, and what they may do",
        )
    if status in REFUSED and subject is not None:
        return ConfigError(
            f"the schema registry at {where} refuses the schema for the subject {subject!r}: {told}",
            "write to another topic, or change the subject's compatibility or its versions in the registry",
        )
    return ConfigError(
        f"{where} is no schema registry: {told}", "correct it, with the path that belongs to it"
    )
