"""The services beside Kafka that the settings name: a schema registry, Redis."""

from __future__ import annotations

from collections.abc import Iterator

from embedstream.doctor.finding import Finding, failed, from_error, ok, skipped, warning
from embedstream.errors import EmbedstreamError, ServiceUnavailableError
from embedstream.registry import has_schema
from embedstream.service_settings import CacheSettings, without_secrets
from embedstream.settings import Settings

__all__ = ["look"]

# What Redis drops when it is full; any other policy refuses to keep more, or drops nothing.
DROPPING = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-lrm")


def look(settings: Settings) -> Iterator[Finding]:
    """Yield what the schema registry and the cache are like, where there are any."""
    yield _registry(settings)
    yield _redis(settings.cache)


def _registry(settings: Settings) -> Finding:
    registry = settings.schema_registry
    if registry.url is None:
        return skipped("registry", "schema_registry.url is not set: records name their schema themselves")
    subjects = [f"{name}-value" for name in (settings.kafka.documents_topic, settings.kafka.embeddings_topic)]
    try:
        there = [each for each in subjects if has_schema(registry, each)]
    except EmbedstreamError as error:
        return from_error("registry", error)
    told = ", ".join(there) if there else "neither topic yet"
    return ok("registry", f"{registry.url} answers; it has a schema of {told}")


def _redis(cache: CacheSettings) -> Finding:
    if cache.url is None:
        return skipped("redis", "cache.url is not set: every passage is computed")
    from consumer.cache import connect

    try:
        client = connect(cache)
    except EmbedstreamError as error:
        return from_error("redis", error)
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    assert client is not None
    where = without_secrets(cache.url)
    try:
        client.ping()
        memory = client.info("memory")
    except (AuthenticationError, NoPermissionError) as error:
        return failed(
            "redis", f"cache.url {where} refuses this user ({error})", "correct its user and password"
        )
    except RedisError as error:
        return failed(
            "redis",
            f"no Redis answers at cache.url {where} in {cache.timeout_seconds:g} s ({error})",
            "check the address, that it runs, and cache.timeout_seconds; daemons do without",
            ServiceUnavailableError.exit_code,
        )
    finally:
        client.close()
    if not memory.get("maxmemory") or memory.get("maxmemory_policy") not in DROPPING:
        told = f"{where} answers, and does not drop old vectors when it is full"
        return warning("redis", told, "set its maxmemory, and maxmemory-policy allkeys-lru")
    return ok("redis", f"{where} answers, {memory['maxmemory'] / 1e9:.1f} GB at most")
