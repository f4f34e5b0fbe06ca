"""Settings of what stands beside Kafka: a cache, a schema registry, metrics, money, a store to export to."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from embedstream.settings_types import NonEmpty, Section

__all__ = [
    "CacheSettings",
    "CostSettings",
    "ExportSettings",
    "MetricsSettings",
    "SchemaRegistrySettings",
    "without_secrets",
]

# In a URL: what stands before the host, and a parameter that is a password.
_URL_SECRETS = re.compile(r"(?<=://).*(?=@)|(?<=password=)[^&]*", re.IGNORECASE)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(value: object) -> object:
    """Whole seconds from 90s, 15m, 6h or 7d; anything else is left as it is."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)([smhd])", value.strip())):
        return int(found[1]) * _UNIT_SECONDS[found[2]]
    return value


def _is_url(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        return False


class CacheSettings(Section):
    """Vectors that were computed before, in Redis; without a `url` there is no cache.

    `url` is `redis://` or `rediss://`; `ttl` is how long a vector is kept: seconds, or 12h, 7d and the like.
    `dtype` is how it is kept: fp16 takes half the memory, and rounds every vector to it before delivery, by
    less than a thousandth of each number, so that what is found and what is computed stay the same.
    `timeout_seconds` is what the encoder waits for an answer at most: for the vectors of a window, which may
    be tens of megabytes.
    """

    url: NonEmpty | None = None
    ttl: Annotated[int, BeforeValidator(_seconds), Field(ge=1, le=10 * 365 * 86_400)] = 7 * 86_400
    dtype: Literal["fp32", "fp16"] = "fp32"
    timeout_seconds: Annotated[float, Field(gt=0, le=10)] = 0.5

    @field_validator("url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        # redis-py takes a database that is no number for database 0.
        if value is not None and not (
            _is_url(value, ("redis", "rediss")) and re.fullmatch(r"/?\d*", urlsplit(value).path)
        ):
            raise ValueError("write redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss:// with TLS")
        return value


class SchemaRegistrySettings(Section):
    """A schema registry with Confluent's interface; without a `url`, records name their schema themselves.

    `url` may be several, parted by commas, which are tried in turn; `SSL_CERT_FILE` names a CA of one's own.
    """

    url: NonEmpty | None = None
    username: NonEmpty | None = None
    password: NonEmpty | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not all(
            _is_url(each.strip(), ("http", "https")) and "@" not in each for each in value.split(",")
        ):
            raise ValueError("write http://HOST:PORT, or https://; credentials have settings of their own")
        return value

    @model_validator(mode="after")
    def _credentials_are_two(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("set both schema_registry.username and schema_registry.password, or neither")
        return self


class MetricsSettings(Section):
    """Where `/metrics` listens. Port 0 takes a free one, -1 switches it off.

    `token` is a bearer token that `/metrics` asks for; `progress_seconds` is how often Kafka is asked how far
    the group is.
    """

    host: NonEmpty = "127.0.0.1"
    port: Annotated[int, Field(ge=-1, le=65_535)] = 9400
    token: str | None = None
    progress_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 5.0

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[!-~]+", value):
            raise ValueError(
                "write letters, digits and signs of ASCII, without spaces; none at all is no token"
            )
        return value


class CostSettings(Section):
    """Dollars an hour for this machine, and how many the group may spend before its daemons stop."""

    price_per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _budget_needs_a_price(self) -> Self:
        if self.budget is not None and self.price_per_hour is None:
            raise ValueError("a budget needs a price: set cost.price_per_hour (--price-per-hour)")
        return self


class ExportSettings(Section):
    """What `export` needs beside its flags."""

    qdrant_api_key: NonEmpty | None = None


def without_secrets(text: str) -> str:
    """The text with what a URL in it may hide: all before its host, and parameters that are passwords."""
    return _URL_SECRETS.sub("********", text)
