"""A fleet on the stand-in for RunPod, with its clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedstream.fleet.client import RunPod
from embedstream.fleet.environment import slot_environment
from embedstream.fleet.fleet import Environment, Fleet
from embedstream.fleet.ledger import Ledger
from embedstream.fleet.plan import Candidate, Spec, candidates
from embedstream.fleet.watch import start, watch
from tests.runpod import CATALOGUE, KEY, FakePod, FakeRunPod

__all__ = [
    "RTX_3090",
    "RTX_4090",
    "Job",
    "a_fleet",
    "a_spec",
    "choices",
    "environment",
    "keep",
    "kind",
    "names",
    "up",
]

RTX_4090, RTX_3090 = "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"
assert {RTX_3090, RTX_4090} <= set(CATALOGUE)


@dataclass
class Job:
    """A job that is drained at a moment of the stand-in's clock, and moves on until then."""

    api: FakeRunPod
    drained_at: float = 1e12
    moves: bool = True

    def is_drained(self) -> bool:
        return self.api.now >= self.drained_at

    def progress(self) -> int:
        return int(self.api.now) if self.moves else 0


def a_spec(pods: int = 4, **changes: object) -> Spec:
    values: dict[str, object] = {
        "name": "job",
        "job": "0123456789abcdef",
        "pods": pods,
        "gpus": (RTX_4090, RTX_3090),
        "clouds": ("COMMUNITY", "SECURE"),
        "image": "registry.example.org/embedstream:1",
        "disk_gb": 30,
        "min_cuda": "12.8",
        **changes,
    }
    return Spec.model_validate(values)


def a_fleet(api: FakeRunPod, folder: Path, name: str = "job") -> Fleet:
    """As a new process would have it: what it knows is in the folder."""
    runpod = RunPod(KEY, transport=api.transport(), sleep=api.sleep)
    return Fleet(runpod, name, Ledger(folder / f"{name}.json"), sleep=api.sleep, now=api.time)


def choices(fleet: Fleet, spec: Spec, gpus: Sequence[str] | None = None) -> list[Candidate]:
    catalogue = {cloud: fleet.runpod.gpus(cloud) for cloud in spec.clouds}
    return candidates(gpus or spec.gpus, spec.clouds, catalogue, spec.max_price)


def environment(spec: Spec) -> Environment:
    return lambda name, price, until: slot_environment({"A": "b"}, name, spec.marker, price, until)


def up(api: FakeRunPod, folder: Path, pods: int = 4, **changes: object) -> str | None:
    """`fleet up` in a process of its own; what is short."""
    spec = a_spec(pods, **changes)
    fleet = a_fleet(api, folder)
    fleet.check_name(spec.job)
    fleet.ledger.ask_for(spec)
    return start(fleet, spec, choices(fleet, spec), environment(spec)).shortage


def keep(api: FakeRunPod, folder: Path, job: Job, **changes: object) -> None:
    """`fleet up --watch`."""
    spec = a_spec(**{"pods": 4, **changes})  # type: ignore[arg-type]
    fleet = a_fleet(api, folder)
    fleet.ledger.ask_for(spec)
    watch(fleet, choices(fleet, spec), environment(spec), job, print)


def names(api: FakeRunPod) -> list[str]:
    return sorted(pod.body["name"] for pod in api.running)


def kind(pod: FakePod) -> tuple[str, str]:
    return pod.body["gpu"]["id"], pod.body["cloud"]
