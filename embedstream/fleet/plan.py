"""What a fleet is and what it may cost: candidates in order, slots, shares of a budget. No network here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from embedstream.costs import gpu_named
from embedstream.errors import UsageError
from embedstream.fleet.records import Cloud, GpuType, Pod
from embedstream.settings import Settings

__all__ = [
    "DEADLINE_VARIABLE",
    "JOB_VARIABLE",
    "METRICS_PORT",
    "Candidate",
    "Spec",
    "candidates",
    "deadline",
    "deadline_of",
    "job_of",
    "promised",
    "share",
    "slot_of",
]

JOB_VARIABLE = "EMBEDSTREAM_FLEET__JOB"
"""The variable in a pod's environment that says which fleet and job it belongs to."""
DEADLINE_VARIABLE = "EMBEDSTREAM_POD__DEADLINE"
"""The variable that says when a pod ends itself."""

METRICS_PORT = 9400
"""Where each pod has its /metrics."""

# A pod ends its work at the deadline and itself some seconds later: delivery, and the DELETE's repetitions.
ENDING_SECONDS = 60.0
# With less than this a pod would do nothing but load its model.
LEAST_SECONDS = 900.0
# A date must hold the end of the largest budget.
LONGEST_SECONDS = 10 * 365 * 86_400.0


class Spec(BaseModel):
    """What was asked for, without secrets; kept in the fleet's file.

    Attributes:
        name: Of the fleet; pods are NAME-0, NAME-1, ...
        job: Digest of what the pods work at, see `job_of`.
        pods: How many.
        gpus: Types, in order of preference, as the catalogue names them.
        clouds: In order of preference.
        image: Of the container.
        disk_gb: Of the container.
        min_cuda: Lowest CUDA of a host.
        registry: Credential for a private image.
        max_price: Dollars an hour of a pod.
        budget: Dollars of all pods since the fleet was first started.
        max_hours: Of a pod.
        start_seconds: How long a pod may take until it runs.
        expose_metrics: Whether /metrics is reachable through RunPod's proxy.
        flags: Settings that `fleet up` was given as flags, by dotted name: `fleet scale` needs them too.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    job: str
    pods: int
    gpus: tuple[str, ...]
    clouds: tuple[Cloud, ...]
    image: str
    disk_gb: int
    min_cuda: str
    registry: str | None = None
    max_price: float | None = None
    budget: float | None = None
    max_hours: float | None = None
    start_seconds: float = 900.0
    expose_metrics: bool = False
    flags: dict[str, Any] = Field(default_factory=dict)

    @property
    def marker(self) -> str:
        """What every pod of this fleet has in `JOB_VARIABLE`."""
        return f"{self.name}/{self.job}"


@dataclass(frozen=True)
class Candidate:
    """A GPU type on a cloud, its list price in dollars an hour, and what the catalogue says of its stock."""

    gpu: str
    cloud: Cloud
    price: float
    availability: str | None = None

    def __str__(self) -> str:
        return f"{self.gpu} on {self.cloud} at ${self.price:.2f}/h"


def job_of(settings: Settings) -> str:
    """A digest of what makes two fleets work at the same job: brokers, topics, group and model."""
    kafka = settings.kafka
    parts = (
        kafka.bootstrap_servers,
        kafka.documents_topic,
        kafka.embeddings_topic,
        settings.consumer.group,
        settings.encoder.model,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def candidates(
    gpus: Sequence[str],
    clouds: Sequence[Cloud],
    catalogue: Mapping[Cloud, Iterable[GpuType]],
    max_price: float | None,
) -> list[Candidate]:
    """What to try, in order: each GPU type on each cloud.

    Args:
        gpus: As a person writes them: `NVIDIA GeForce RTX 4090`, `rtx 4090`.
        clouds: In order of preference.
        catalogue: What each cloud has.
        max_price: Dollars an hour of one pod; None for any.

    Raises:
        UsageError: A GPU is unknown, which names the nearest; or nothing is left under the price.
    """
    if not gpus:
        raise UsageError("no GPU is named", 'give --gpu "NVIDIA GeForce RTX 4090", repeatable')
    known = {cloud: {each.id: each for each in catalogue[cloud]} for cloud in clouds}
    names = {gpu_id: 0.0 for of_cloud in known.values() for gpu_id in of_cloud}
    found = []
    for gpu in dict.fromkeys(gpu_named(each, names) for each in gpus):
        for cloud in clouds:
            entry = known[cloud].get(gpu)
            price = None if entry is None else entry.price_on(cloud)
            if entry is not None and price is not None:
                found.append(Candidate(gpu, cloud, price, entry.availability))
    if not found:
        raise UsageError(f"none of these GPUs is on {' or '.join(clouds)}", "name others with --gpu")
    cheap = [each for each in found if max_price is None or each.price <= max_price]
    if not cheap:
        cheapest = min(found, key=lambda each: each.price)
        raise UsageError(
            f"--max-price {max_price:g} is under every candidate's price",
            f"the cheapest is {cheapest}: raise it, or name other GPUs",
        )
    return cheap


def slot_of(name: str, pod: Pod) -> int | None:
    """The slot that a pod's name stands for in the fleet NAME; None for one of another name."""
    found = re.fullmatch(rf"{re.escape(name)}-(0|[1-9]\d*)", pod.name)
    return int(found[1]) if found else None


def deadline_of(pod: Pod) -> datetime | None:
    """When a pod ends itself, as its environment says; None for a pod without a deadline."""
    try:
        return datetime.fromisoformat(pod.env[DEADLINE_VARIABLE])
    except (KeyError, ValueError):
        return None


def promised(running: Iterable[tuple[float, datetime | None]], now: datetime) -> float:
    """Dollars that running pods may still cost until they end themselves.

    Args:
        running: Of each its dollars an hour and its deadline; one without a deadline was promised nothing.
        now: The time.
    """
    return sum(
        price * max(0.0, (until - now).total_seconds() + ENDING_SECONDS) / 3600
        for price, until in running
        if until is not None
    )


def share(
    budget: float, spent: float, running: Iterable[tuple[float, datetime | None]], missing: int, now: datetime
) -> float:
    """Dollars that each missing pod may cost, so that the budget holds though nobody watches.

    Args:
        budget: Dollars in all.
        spent: Dollars so far.
        running: As for `promised`.
        missing: Pods to be made.
        now: The time.

    Returns:
        An equal part of what is neither spent nor promised to a running pod.
    """
    return max(0.0, budget - spent - promised(running, now)) / max(1, missing)


def deadline(dollars: float | None, max_hours: float | None, price: float, now: datetime) -> datetime | None:
    """When a pod must end its work: when its dollars are used up, or after its hours; None for neither."""
    seconds = [] if max_hours is None else [max_hours * 3600]
    if dollars is not None:
        seconds.append(dollars / price * 3600 - ENDING_SECONDS)
    if not seconds:
        return None
    return (now + timedelta(seconds=max(0.0, min(*seconds, LONGEST_SECONDS)))).replace(microsecond=0)
