"""The sections `[fleet]` and `[pod]` of the settings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from embedstream.settings_types import Names, NonEmpty, Section, by_comma

__all__ = ["FleetSettings", "PodSettings"]


class FleetSettings(Section):
    """The rented pods of one job: see `embedstream.fleet`.

    `gpu` and `cloud` are tried in this order; `max_price` and `budget` are dollars, an hour of a pod and for
    all pods; `registry` names a credential for a private image; an entry SETTING=NAME of `secrets` makes pods
    take a setting from the secret NAME that RunPod keeps. `job` is set in pods: whose they are.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?$")] = "embedstream"
    image: NonEmpty | None = None
    gpu: Names = ()
    cloud: Annotated[tuple[Literal["COMMUNITY", "SECURE"], ...], NoDecode, BeforeValidator(by_comma)] = (
        "COMMUNITY",
        "SECURE",
    )
    max_price: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    disk_gb: Annotated[int, Field(ge=5)] = 30
    min_cuda: Annotated[str, Field(pattern=r"^\d+\.\d+$")] = "12.8"
    start_seconds: Annotated[float, Field(ge=30)] = 900.0
    registry: NonEmpty | None = None
    secrets: Names = ()
    api_url: NonEmpty = "https://api.runpod.io/v2"
    api_key: NonEmpty | None = None
    job: NonEmpty | None = None


class PodSettings(Section):
    """When a pod ends itself before it has drained: at `deadline`, after `kafka_seconds` without Kafka."""

    deadline: datetime | None = None
    kafka_seconds: Annotated[float, Field(ge=1)] = 900.0

    @field_validator("deadline")
    @classmethod
    def _is_a_moment(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("has no time zone: write it as 2026-01-31T12:00:00Z")
        return value
