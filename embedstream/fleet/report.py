"""A fleet as a person or a program wants to read it: its plan, and what runs and costs now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from embedstream.fleet.plan import Candidate, Spec, deadline_of
from embedstream.fleet.records import Pod

__all__ = ["FleetStatus", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What `fleet up --dry-run` tells.

    Attributes:
        spec: What is asked for.
        candidates: In the order in which they would be tried.
        variables: Names of the variables that pods get; no values, which may be secrets.
        in_plain: Those whose values are secrets that RunPod's API would show.
    """

    spec: Spec
    candidates: Sequence[Candidate]
    variables: Sequence[str]
    in_plain: Sequence[str]

    @property
    def per_hour(self) -> tuple[float, float]:
        """Dollars an hour of the fleet: with the first candidate, and with the dearest."""
        prices = [each.price for each in self.candidates]
        return self.spec.pods * prices[0], self.spec.pods * max(prices)

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        first, most = self.per_hour
        return {
            "name": self.spec.name,
            "pods": self.spec.pods,
            "image": self.spec.image,
            "candidates": [
                {
                    "gpu": each.gpu,
                    "cloud": each.cloud,
                    "price_per_hour": each.price,
                    "availability": each.availability,
                }
                for each in self.candidates
            ],
            "dollars_per_hour": first,
            "dollars_per_hour_at_most": most,
            "budget": self.spec.budget,
            "variables": list(self.variables),
            "secrets_in_plain": list(self.in_plain),
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        first, most = self.per_hour
        yield f"{self.spec.pods} pods of {self.spec.image}: ${first:.2f} an hour, at most ${most:.2f}"
        for number, each in enumerate(self.candidates, start=1):
            stock = f", stock {each.availability}" if each.availability else ""
            yield f"  {number}. {each}{stock}"
        if self.spec.budget is not None:
            low, high = (self.spec.budget / price for price in (most, first))
            hours = f"{low:.1f} to {high:.1f}" if high - low > 0.1 else f"{high:.1f}"
            yield f"the budget of ${self.spec.budget:.2f} pays for {hours} hours of them"
        else:
            yield "no budget: pods end when the job is drained (--budget, --max-hours)"
        yield from plain_lines(self.in_plain)


def plain_lines(in_plain: Sequence[str]) -> Iterator[str]:
    """Yield what to do about secrets that RunPod's API would show."""
    for name in in_plain:
        yield f"{name} goes to the pods in plain: --secret SETTING=NAME takes it from RunPod's secrets"


@dataclass(frozen=True)
class FleetStatus:
    """What runs, what it costs, and what is left."""

    name: str
    spec: Spec | None
    pods: Sequence[Pod]
    dollars: float
    now: datetime

    @property
    def per_hour(self) -> float:
        """Dollars an hour of what runs now, as the API tells."""
        return sum(pod.cost for pod in self.pods)

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        budget = self.spec.budget if self.spec is not None else None
        return {
            "name": self.name,
            "wanted": self.spec.pods if self.spec is not None else None,
            "pods": [self._pod(pod) for pod in self.pods],
            "dollars_per_hour": round(self.per_hour, 4),
            "dollars": round(self.dollars, 4),
            "budget": budget,
            "budget_left": None if budget is None else round(max(0.0, budget - self.dollars), 4),
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        for pod in self.pods:
            told = self._pod(pod)
            use = f", GPU {told['gpu_percent']}%" if told["gpu_percent"] is not None else ""
            yield f"{pod.name}  {pod.id}  {pod.status}  {pod.gpu_id} on {pod.cloud} at ${pod.cost:.2f}/h{use}"
        wanted = f" of {self.spec.pods}" if self.spec is not None else ""
        left = ""
        if self.spec is not None and self.spec.budget is not None:
            left = f" of ${self.spec.budget:.2f}"
        yield f"{len(self.pods)}{wanted} pods, ${self.per_hour:.2f} an hour, ${self.dollars:.2f}{left} so far"

    def _pod(self, pod: Pod) -> Mapping[str, object]:
        runtime = pod.runtime
        until = deadline_of(pod)
        return {
            "name": pod.name,
            "id": pod.id,
            "status": pod.status,
            "gpu": pod.gpu_id,
            "cloud": pod.cloud,
            "price_per_hour": pod.cost,
            "uptime_seconds": runtime.uptime if runtime is not None else None,
            "gpu_percent": runtime.gpus[0].util if runtime is not None and runtime.gpus else None,
            "created_at": pod.created_at.isoformat(),
            "deadline": until.isoformat() if until is not None else None,
        }
