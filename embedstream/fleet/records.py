"""What RunPod's REST API v2 takes and gives, as far as a fleet needs it.

After its OpenAPI description of August 2026 (https://api.runpod.io/v2/openapi.json). Answers may hold more
than is named here; requests must not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

__all__ = ["Cloud", "CreatePod", "Gpu", "GpuPrice", "GpuType", "Pod", "Runtime"]

Cloud = Literal["COMMUNITY", "SECURE"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Gpu(_Request):
    """The GPU of a pod to make; one type a request."""

    id: str
    count: int = 1
    min_cuda_version: str | None = Field(default=None, serialization_alias="minCudaVersion")


class CreatePod(_Request):
    """The body of `POST /pods`."""

    name: str
    image: str
    gpu: Gpu
    cloud: Cloud
    disk: int
    env: dict[str, str]
    args: str | None = None
    ports: list[str] | None = None
    registry: str | None = None

    def body(self) -> dict[str, object]:
        """As JSON; what is not set is left out."""
        return self.model_dump(by_alias=True, exclude_none=True)


class _PodGpu(_Answer):
    id: str
    count: int = 1


class _Utilisation(_Answer):
    util: int | None = None


class Runtime(_Answer):
    """Of a pod that is running: seconds since its container started, and percent of use of each GPU."""

    uptime: int | None = None
    gpus: list[_Utilisation] = Field(default_factory=list)


class Pod(_Answer):
    """A pod. `cost` is dollars an hour, 0 for one that is stopped.

    `status` is PROVISIONING, STARTING, RUNNING, EXITED, ERROR or TERMINATED; one that is none of these must
    not hide the account's other pods.
    """

    id: str
    name: str
    status: str
    cost: float = 0.0
    image: str = ""
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    gpu: _PodGpu | None = None
    cloud: Cloud | None = None
    runtime: Runtime | None = None
    created_at: datetime = Field(validation_alias=AliasChoices("createdAt", "created_at"))

    @property
    def gpu_id(self) -> str:
        """The type of its GPU; empty for a pod without."""
        return self.gpu.id if self.gpu is not None else ""


class GpuPrice(_Answer):
    """Dollars an hour of one GPU; none or 0 where it is not to be had."""

    secure: float | None = None
    community: float | None = None


class GpuType(_Answer):
    """An entry of the catalogue; `availability` only where it was asked for."""

    id: str
    name: str
    memory: int = 0
    secure: bool = False
    community: bool = False
    price: GpuPrice
    availability: str | None = None

    def price_on(self, cloud: Cloud) -> float | None:
        """Dollars an hour there; None where it is not to be had."""
        if cloud == "SECURE":
            return (self.price.secure or None) if self.secure else None
        return (self.price.community or None) if self.community else None
