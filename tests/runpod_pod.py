"""One pod of the stand-in for RunPod: what becomes of it, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ACTIONS", "FakePod", "Fate"]

# What may be done with a pod in each state.
ACTIONS = {
    "RUNNING": {"stop", "restart", "terminate"},
    "EXITED": {"start", "terminate"},
    "ERROR": {"start", "terminate"},
    "PROVISIONING": {"stop", "terminate"},
    "STARTING": {"stop", "terminate"},
}
PROVISIONING_SECONDS, STARTING_SECONDS = 20.0, 60.0

Fate = Literal[
    "runs",
    "never starts",
    "fails at once",
    "vanishes",
    "vanishes at once",
    "exits",
    "shows up late",
    "drains",
    "is strange",
]


@dataclass
class FakePod:
    """One pod; `charged` is dollars."""

    id: str
    body: dict[str, Any]
    price: float
    made: float
    fate: Fate
    stopped: float | None = None
    gone: float | None = None
    charged: float = 0.0
    late_looks: int = 0

    def status(self, now: float) -> str:
        age = now - self.made
        if self.gone is not None:
            return "TERMINATED"
        if self.stopped is not None:
            return "EXITED"
        if self.fate == "is strange":
            return "MIGRATING"
        if self.fate == "fails at once" and age > PROVISIONING_SECONDS:
            return "ERROR"
        if age < PROVISIONING_SECONDS:
            return "PROVISIONING"
        if age < STARTING_SECONDS or self.fate == "never starts":
            return "STARTING"
        return "RUNNING"
