"""The one place where Kafka clients are made, and where their errors become sentences."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from embedstream.errors import ConfigError, EmbedstreamError, ServiceUnavailableError
from embedstream.kafka_security import Refusals, refuse_plaintext
from embedstream.logs import get_logger
from embedstream.settings import KafkaSettings

__all__ = [
    "all_topics",
    "describe_error",
    "explain",
    "is_denied",
    "make_admin",
    "make_consumer",
    "make_producer",
    "topic_partitions",
    "topics_answer",
]

# Long enough for a broker that has just started, short enough for a person who mistyped an address.
CONNECT_TIMEOUT_SECONDS = 10.0
# How long librdkafka waits in `list_topics` before it connects a second time.
_RECONNECT_SECONDS = 0.05

Client = TypeVar("Client")

_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "its group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "something of the whole cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "its transactional id",
}

_log = get_logger("kafka")
_refusals = Refusals()
# Which settings each client was made with: they say what a refusal is about.
_settings_of: WeakKeyDictionary[AdminClient, KafkaSettings] = WeakKeyDictionary()


def make_producer(kafka: KafkaSettings, **overrides: Any) -> Producer:
    """An idempotent producer with zstd; `overrides` are librdkafka properties with `_` for `.`."""
    properties = {
        "enable.idempotence": True,
        "compression.type": "zstd",
        "linger.ms": 20,
    }
    return _make(Producer, kafka, properties, overrides)


def make_consumer(kafka: KafkaSettings, **overrides: Any) -> Consumer:
    """A read_committed consumer that never commits by itself and holds little in memory.

    librdkafka's own limits let a slow reader of 256 KiB records hold 220 MB; these hold about 70.
    """
    properties = {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 16_384,
        "queued.min.messages": 100,
        "fetch.max.bytes": 4 * 1024 * 1024,
        "fetch.message.max.bytes": 512 * 1024,
        # With a queue this short, the client's one second between fetches would starve the encoder: small
        # records came at 2,000 a second, and at 170,000 like this.
        "fetch.queue.backoff.ms": 20,
    }
    return _make(Consumer, kafka, properties, overrides)


def make_admin(kafka: KafkaSettings, **overrides: Any) -> AdminClient:
    """A client for metadata, topics and a group's offsets; it may be used from any thread."""
    admin = _make(AdminClient, kafka, {}, overrides)
    _settings_of[admin] = kafka
    return admin


def all_topics(admin: AdminClient) -> ClusterMetadata:
    """The brokers, and every topic that this user may see: the first question to a cluster.

    All topics, because asking for one by its name makes it on a broker that creates topics on demand.

    Raises:
        ConfigError: a broker refuses the user, or its certificate is not to be trusted; said at once, and not
            tried again.
        ServiceUnavailableError: no broker answers.
    """
    ends = time.monotonic() + CONNECT_TIMEOUT_SECONDS
    patience = 1.0
    # A new client drops its first connection as soon as it knows the brokers by name. What asks meanwhile
    # waits; this request takes the next connection at once, and leaves it for the other.
    with contextlib.suppress(KafkaException):
        admin.describe_cluster(request_timeout=_RECONNECT_SECONDS).result()
    while True:
        try:
            found = admin.list_topics(timeout=min(patience, max(0.1, ends - time.monotonic())))
        except KafkaException as exception:
            error = exception
        else:
            _refuse_plaintext_elsewhere(found, _settings_of.get(admin))
            return found
        admin.poll(0)  # hands over what the client has to tell
        kafka = _settings_of.get(admin)
        refused = None if kafka is None else _refusals.explained(kafka.bootstrap_servers, kafka.client)
        if refused is not None:
            raise refused
        if time.monotonic() > ends:
            raise explain(error) from None
        patience *= 2


def topic_partitions(
    admin: AdminClient,
    topic: str,
    setting: str = "topic",
    mend: str = "make it with `embedstream topics create`",
    *,
    found: ClusterMetadata | None = None,
) -> int:
    """How many partitions a topic has.

    Args:
        admin: of the cluster.
        topic: its name.
        setting: what named it, for the error.
        mend: what to do where it does not exist.
        found: what `all_topics` has found just now, if it was asked.

    Raises:
        ServiceUnavailableError: no broker answers.
        ConfigError: the topic does not exist.
    """
    metadata = (found or all_topics(admin)).topics.get(topic)
    if metadata is None:
        # A broker with ACLs hides what a user may not describe.
        hidden = " or this user may not see it" if _has_user(admin) else ""
        raise ConfigError(f"{setting} {topic!r} does not exist{hidden}", mend + _allow(admin))
    if metadata.error is not None:
        raise explain(KafkaException(metadata.error))
    return len(metadata.partitions)


def topics_answer(admin: AdminClient) -> bool:
    """Whether a broker answers."""
    try:
        admin.list_topics(timeout=CONNECT_TIMEOUT_SECONDS)
    except KafkaException:
        return False
    return True


def describe_error(error: KafkaError) -> str:
    """The error's name and text, without the client's own decoration."""
    return f"{error.name()}: {error.str()}"


def is_denied(error: KafkaError) -> bool:
    """Whether a right is lacking: trying again does not mend it."""
    return _denied(error) is not None


def explain(exception: KafkaException) -> EmbedstreamError:
    """The error, with the setting to look at, that a Kafka exception means to a user."""
    error: KafkaError = exception.args[0]
    code = error.code()
    if code in (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
    ):
        return ServiceUnavailableError(
            f"no Kafka broker answers ({describe_error(error)})",
            "check kafka.bootstrap_servers (--bootstrap-servers), and that the broker runs;"
            " `embedstream broker` starts one to try things with",
        )
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL):
        return ServiceUnavailableError(
            f"the broker refused the connection ({describe_error(error)})", "check [kafka.client]"
        )
    denied = _denied(error)
    if denied is not None:
        return ConfigError(
            f"the broker does not allow this user {denied} ({describe_error(error)})",
            "give it the ACLs of its role (deploy/kafka/acls.sh lists them)",
        )
    return ServiceUnavailableError(
        f"Kafka: {describe_error(error)}", "try again; look at the brokers' logs if it stays"
    )


def _denied(error: KafkaError) -> str | None:
    """What the user has no right to; None for another error."""
    if error.code() != KafkaError._FATAL:
        return _NOT_ALLOWED.get(error.code())
    # A fatal error of an idempotent producer comes under a code of its own.
    return "to write" if "authorization failed" in error.str().lower() else None


def _refuse_plaintext_elsewhere(found: ClusterMetadata, kafka: KafkaSettings | None) -> None:
    """The addresses that the brokers give themselves are the ones that data goes to."""
    if kafka is not None and not kafka.allow_plaintext:
        servers = ",".join(f"{broker.host}:{broker.port}" for broker in found.brokers.values())
        if servers:
            refuse_plaintext(servers, kafka.client, "the broker tells clients to come to")


def _has_user(admin: AdminClient) -> bool:
    kafka = _settings_of.get(admin)
    return kafka is not None and "sasl.username" in kafka.client


def _allow(admin: AdminClient) -> str:
    return ", or give the user the ACLs of its role (deploy/kafka/acls.sh)" if _has_user(admin) else ""


def _make(kind: Callable[[dict[str, Any]], Client], kafka: KafkaSettings, *layers: dict[str, Any]) -> Client:
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "error_cb": _on_error,
        "logger": _RdkafkaLog(),
    }
    if not kafka.client.keys().isdisjoint(("bootstrap.servers", "metadata.broker.list")):
        # They would be spoken to without having been looked at.
        raise ConfigError("[kafka.client] names brokers", "name them with kafka.bootstrap_servers only")
    if not kafka.allow_plaintext:
        refuse_plaintext(kafka.bootstrap_servers, kafka.client)
    for layer in layers:
        # Only callbacks have an underscore of their own.
        config |= {
            name if name.endswith("_cb") else name.replace("_", "."): value for name, value in layer.items()
        }
    try:
        return kind(config | kafka.client)
    except KafkaException as error:
        raise ConfigError(
            f"[kafka.client]: {error.args[0].str()}", "correct or remove the property"
        ) from None


def _on_error(error: KafkaError) -> None:
    # Connection troubles pass by themselves or end in a time-out that is reported where it matters.
    _refusals.note(error)
    _log.debug("kafka_client_error", error=describe_error(error))


class _RdkafkaLog:
    """librdkafka's log lines, as events; without it they go to stderr in a format of their own."""

    def log(self, level: int, message: str, *args: Any) -> None:
        _log.debug("librdkafka", level=level, line=message % args if args else message)
