"""Waits until pods run, and replaces those that vanish until the job is drained or the budget is used up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from embedstream.errors import (
    BudgetUsedUpError,
    ConfigError,
    EmbedstreamError,
    ServiceUnavailableError,
    TryAgainError,
)
from embedstream.fleet.fleet import WAITING, Environment, Fleet, Raised
from embedstream.fleet.plan import Candidate, Spec
from embedstream.fleet.records import Pod
from embedstream.logs import get_logger

__all__ = ["Job", "start", "watch"]

LOOK_SECONDS = 30.0
WAIT_SECONDS = 10.0
# Pods of which none ran, or which ended at once without any progress, until that is not chance any more.
MOST_FAILURES = 3

_log = get_logger("fleet")


class Job(Protocol):
    """What the pods work at, as Kafka knows it."""

    def is_drained(self) -> bool:
        """Whether everything that was there at the start is committed."""
        ...

    def progress(self) -> int:
        """A number that grows as work is committed."""
        ...


def start(fleet: Fleet, spec: Spec, choices: Sequence[Candidate], environment: Environment) -> Raised:
    """Makes what is missing and waits until each pod runs; one that does not, or stops, is replaced.

    Raises:
        ConfigError: No pod has started, though several were made.
        EmbedstreamError: As `Fleet.raise_pods`.
    """
    raised = fleet.raise_pods(spec, choices, environment)
    while True:
        pods = fleet.look()
        if any(fleet.has_failed(pod, spec) for pod in pods):
            raised.ended += fleet.tidy(spec)
            if fleet.failed_starts < _most_failures(spec):
                _add(raised, fleet.raise_pods(spec, choices, environment))
                continue
            pods = fleet.look()
            if not any(pod.status == "RUNNING" for pod in pods):
                fleet.end(pods, deliver=False)
                raise _no_start(spec, fleet.failed_starts)
            raised.shortage = f"{fleet.failed_starts} pods did not start"
        if not any(pod.status in WAITING for pod in pods):
            # A pod whose create went unanswered may have come late.
            fleet.tidy(spec)
            return raised
        fleet.sleep(WAIT_SECONDS)


@dataclass
class _Seen:
    """Pods as they were last seen, and the job's progress when each was first seen."""

    pods: dict[str, Pod] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)
    short_lives: int = 0

    def look(self, pods: Sequence[Pod], progress: int, now: datetime, short_seconds: float) -> None:
        """Counts the pods that were gone soon, while nothing was committed."""
        here = {pod.id for pod in pods}
        for pod_id in [each for each in self.pods if each not in here]:
            pod = self.pods.pop(pod_id)
            if progress > self.began.pop(pod_id):
                self.short_lives = 0
            elif (now - pod.created_at).total_seconds() < short_seconds:
                self.short_lives += 1
        for pod in pods:
            self.pods[pod.id] = pod
            self.began.setdefault(pod.id, progress)


def watch(
    fleet: Fleet,
    choices: Sequence[Candidate],
    environment: Environment,
    job: Job,
    say: Callable[[str], None],
) -> None:
    """Keeps the fleet at its number until the job is drained; then nothing is left running.

    The number is read from the fleet's file at every look, so that `fleet scale` and `fleet down` are heeded.

    Raises:
        BudgetUsedUpError: It is; nothing is left running.
        ConfigError: No pod starts, and nothing is left running; or the brokers refuse this user.
        TryAgainError: Pods end as soon as they start; nothing is left running.
    """
    with suppress(ServiceUnavailableError):
        job.is_drained()  # what is wrong with Kafka's settings is said before anything is rented
    seen = _Seen()
    progress = 0
    while True:
        fleet.ledger.reload()
        spec = fleet.ledger.spec
        if spec is None or spec.pods == 0:
            # Also what this watch may have made while the other command looked.
            fleet.down()
            say("the fleet was scaled to 0: nothing is left to watch")
            return
        try:
            pods = fleet.look()
            drained, progress = _ask(job, progress)
            if drained:
                fleet.down()
                say(f"drained after ${fleet.ledger.dollars:.2f}; nothing is left running")
                return
            if spec.budget is not None and fleet.ledger.dollars >= spec.budget:
                raise BudgetUsedUpError(f"the budget of ${spec.budget:.2f} is used up", "raise --budget")
            seen.look(pods, progress, fleet.now(), spec.start_seconds)
            _give_up_on_failures(fleet, spec, seen)
            _replace(fleet, spec, choices, environment, pods, say)
        except ServiceUnavailableError as error:
            _log.warning("look_failed", why=str(error))
        except EmbedstreamError:
            fleet.down()
            say(f"nothing is left running; it cost ${fleet.ledger.dollars:.2f}")
            raise
        fleet.sleep(LOOK_SECONDS)


def _replace(
    fleet: Fleet,
    spec: Spec,
    choices: Sequence[Candidate],
    environment: Environment,
    pods: Sequence[Pod],
    say: Callable[[str], None],
) -> None:
    try:
        raised = fleet.raise_pods(spec, choices, environment)
    except BudgetUsedUpError:
        if not pods:
            raise
        return  # those that run may use up what was promised to them
    for pod in raised.made:
        say(f"{pod.name} is {pod.id}: {pod.gpu_id} at ${pod.cost:.2f}/h")
    if raised.shortage is not None:
        _log.warning("pods_missing", why=raised.shortage)


def _give_up_on_failures(fleet: Fleet, spec: Spec, seen: _Seen) -> None:
    if any(pod.status == "RUNNING" for pod in seen.pods.values()):
        fleet.failed_starts = 0
    if fleet.failed_starts >= _most_failures(spec):
        raise _no_start(spec, fleet.failed_starts)
    if seen.short_lives >= MOST_FAILURES:
        raise TryAgainError(
            f"the last {seen.short_lives} pods ended soon after they were made, and nothing was committed",
            "see their logs in RunPod's console, and try the image by hand",
        )


def _ask(job: Job, progress: int) -> tuple[bool, int]:
    """Whether the job is drained, and its progress; Kafka out of reach from here is no reason to end pods."""
    try:
        return job.is_drained(), max(progress, job.progress())
    except EmbedstreamError as error:
        _log.warning("job_unknown", why=str(error))
        return False, progress


def _add(raised: Raised, more: Raised) -> None:
    raised.made += more.made
    raised.ended += more.ended
    raised.shortage = more.shortage


def _most_failures(spec: Spec) -> int:
    """Of all pods at once, and once more."""
    return max(MOST_FAILURES, spec.pods + 1)


def _no_start(spec: Spec, count: int) -> ConfigError:
    return ConfigError(
        f"none of {count} pods has started, and stayed, in {spec.start_seconds / 60:.0f} minutes each;"
        " none is left",
        f"see that the image {spec.image} exists and that RunPod can pull it (--registry for a private one)",
    )
