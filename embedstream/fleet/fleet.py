"""Raises the pods of a fleet, tidies them, and ends them.

Everything goes by the pods' names: NAME-0, NAME-1, ... Before a pod is made, and after a create whose answer
was lost, the API is asked what there is; so every method may be called again after any failure, or instead of
another that failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from embedstream.errors import BudgetUsedUpError, ConfigError, EmbedstreamError, ServiceUnavailableError
from embedstream.fleet.client import NextCandidate, OutcomeUnknown, RunPod
from embedstream.fleet.ledger import Ledger
from embedstream.fleet.plan import (
    JOB_VARIABLE,
    LEAST_SECONDS,
    METRICS_PORT,
    Candidate,
    Spec,
    deadline,
    deadline_of,
    promised,
    share,
    slot_of,
)
from embedstream.fleet.records import CreatePod, Gpu, Pod
from embedstream.logs import get_logger

__all__ = ["ENDED", "WAITING", "Environment", "Fleet", "Raised"]

# How often one candidate is asked whose answers get lost.
ATTEMPTS = 3
# Looks for a pod whose create had no answer: it may show up late.
LOOK_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)
# A stopped container has this long to deliver what is encoded.
DELIVER_SECONDS = 30.0
DOWN_ROUNDS = 30
DOWN_PAUSE_SECONDS = 5.0
# How often the API is asked for a bill that it does not have yet, or never will: of a pod that did not start.
BILL_SECONDS = 600.0
# Looks in a row without any pod, until none can show up late.
QUIET_LOOKS = 2
# A pod may cost a little more than its GPU's list price: its disk.
PRICE_MARGIN = 1.05
WAITING = ("PROVISIONING", "STARTING")
ENDED = ("EXITED", "ERROR")

Environment = Callable[[str, float, str | None], dict[str, str]]
"""Makes a pod's environment of its name, its price and its deadline."""

_log = get_logger("fleet")


@dataclass
class Raised:
    """What became of a call of `raise_pods`.

    Attributes:
        made: New pods.
        ended: Pods that were ended because they had stopped, did not start, were double or too many.
        shortage: Why pods are still missing; None where none is.
    """

    made: list[Pod] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    shortage: str | None = None


class Fleet:
    """The pods of one name."""

    def __init__(
        self,
        runpod: RunPod,
        name: str,
        ledger: Ledger,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Asks for nothing yet; `sleep` and `now` are other clocks, for tests."""
        self.runpod = runpod
        self.name = name
        self.ledger = ledger
        self.sleep = sleep
        self.now = now
        # Candidates whose pods did not start, or ended at once: those without such failures come first.
        self._failures: Counter[Candidate] = Counter()
        self._refusal = ""
        self._bill_asked: dict[str, datetime] = {}
        self.failed_starts = 0

    def look(self) -> list[Pod]:
        """This fleet's pods, in the order of their slots; what they cost is written down."""
        pods = self._ours(self.runpod.pods())
        self.ledger.see(pods, self.now())
        self._settle_bills()
        return pods

    def strangers(self) -> list[Pod]:
        """Pods that have this fleet's names and not its marker: none of its commands touches them."""
        pods = self.runpod.pods()
        ours = {pod.id for pod in self._ours(pods)}
        return [pod for pod in pods if slot_of(self.name, pod) is not None and pod.id not in ours]

    def check_name(self, job: str) -> None:
        """Sees that no pod of these names belongs to another job, or to nobody.

        Raises:
            ConfigError: One does.
        """
        for pod in self.runpod.pods():
            if slot_of(self.name, pod) is not None and _marker(pod) != f"{self.name}/{job}":
                raise ConfigError(
                    f"the name {self.name!r} is taken: pod {pod.name} ({pod.id}) belongs to another job",
                    f"choose another --name, or end it with `embedstream fleet down --name {self.name}`",
                )

    def check_budget(self, spec: Spec) -> None:
        """Sees that the pods that run end themselves within the budget, though nobody watches them.

        Raises:
            ConfigError: They were made without a budget, or with a larger one.
        """
        if spec.budget is None:
            return
        pods = self.look()
        running = [(pod.cost, deadline_of(pod)) for pod in pods if pod.status not in ENDED]
        dollars = self.ledger.dollars + promised(running, self.now())
        if dollars > 1.01 * spec.budget + 0.01 or any(until is None for _, until in running):
            raise ConfigError(
                f"pods that run were made without --budget {spec.budget:g} and don't end within it",
                "first `embedstream fleet scale 0`, or add --watch, which ends them",
            )

    def raise_pods(self, spec: Spec, choices: Sequence[Candidate], environment: Environment) -> Raised:
        """Makes what is missing to the number asked for, and ends what is too much.

        Raises:
            BudgetUsedUpError: What is left pays for no pod's start.
            NoBalanceError: The account has no money.
            ConfigError: The API refuses the key or the request.
            ServiceUnavailableError: The API does not answer.
        """
        raised = Raised()
        for each in choices:
            self._failures.setdefault(each, 0)
        pods = self._tidy(spec, self.look(), raised)
        here = {slot_of(self.name, pod) for pod in pods}
        missing = [slot for slot in range(spec.pods) if slot not in here]
        if not missing:
            return raised
        dollars = self._share(spec, pods, len(missing), choices)
        left = sorted(choices, key=lambda each: self._failures[each])
        for slot in missing:
            if not self._wants(slot):
                break
            pod = self._place(spec, slot, left, dollars, environment)
            if pod is None:
                raised.shortage = self._refusal
                break
            if not self._wants(slot):
                self.end([pod], deliver=False)
                break
            raised.made.append(pod)
            _log.info("pod_made", pod=pod.name, id=pod.id, gpu=pod.gpu_id, cloud=pod.cloud, price=pod.cost)
        self.look()
        return raised

    def tidy(self, spec: Spec) -> list[Pod]:
        """Ends what is stopped, late, double or too much; returns those that were ended."""
        raised = Raised()
        self._tidy(spec, self.look(), raised)
        return raised.ended

    def end(self, pods: Sequence[Pod], *, deliver: bool = True) -> None:
        """Ends pods for good; with `deliver`, those that run are first asked to, and waited for a while.

        Raises:
            ConfigError: The API does not let one of them end; the others are ended.
            ServiceUnavailableError: The API does not answer.
        """
        running = {pod.id for pod in pods if pod.status == "RUNNING"} if deliver else set()
        for pod_id in running:
            self.runpod.stop(pod_id)
        waited = 0.0
        with suppress(ServiceUnavailableError):
            while running and waited < DELIVER_SECONDS:
                self.sleep(2.0)
                waited += 2.0
                running &= {pod.id for pod in self.look() if pod.status == "RUNNING"}
        trouble: EmbedstreamError | None = None
        for pod in pods:
            try:
                self.runpod.delete(pod.id)
                _log.info("pod_ended", pod=pod.name, id=pod.id)
            except EmbedstreamError as error:
                # The others must not go on for it, and cost.
                trouble = error
                _log.warning("pod_not_ended", pod=pod.name, id=pod.id, why=str(error))
        if trouble is not None:
            raise trouble

    def down(self) -> list[Pod]:
        """Ends every pod of this fleet, and looks until none is left; returns those that were ended.

        Raises:
            ConfigError: The API refuses the key, or does not let a pod end; the others are ended.
            ServiceUnavailableError: Pods may still run, and cost: they are named.
        """
        spec = self.ledger.spec
        if spec is not None and spec.pods:
            # Whoever watches the fleet must not replace them.
            self.ledger.ask_for(spec.model_copy(update={"pods": 0}))
        ended: dict[str, Pod] = {}
        quiet, trouble = 0, ""
        for _ in range(DOWN_ROUNDS):
            try:
                pods = self.look()
                quiet = 0 if pods else quiet + 1
                if quiet == QUIET_LOOKS:
                    return list(ended.values())
                fresh = [pod for pod in pods if pod.id not in ended]
                ended |= {pod.id: pod for pod in pods}
                self.end(pods, deliver=bool(fresh))
            except ServiceUnavailableError as error:
                trouble = str(error)
            self.sleep(DOWN_PAUSE_SECONDS)
        names = ", ".join(f"{pod.name} ({pod.id})" for pod in ended.values()) or f"{self.name}-*"
        raise ServiceUnavailableError(
            f"pods may still run and cost: {names}; {trouble or 'they are still listed'}",
            "run `embedstream fleet down` again, or end them in RunPod's console",
        )

    def _settle_bills(self) -> None:
        now = self.now()
        for pod_id, since in self.ledger.unbilled(now):
            asked = self._bill_asked.get(pod_id)
            if asked is not None and (now - asked).total_seconds() < BILL_SECONDS:
                continue
            self._bill_asked[pod_id] = now
            dollars = self.runpod.billed(pod_id, since)
            if dollars is not None:
                self.ledger.settle(pod_id, dollars)

    def _ours(self, pods: Sequence[Pod]) -> list[Pod]:
        """Those with our names and our marker, whatever the job."""
        slots = {pod.id: slot_of(self.name, pod) for pod in pods}
        mine = [
            pod
            for pod in pods
            if slots[pod.id] is not None and (_marker(pod) or "").startswith(f"{self.name}/")
        ]
        return sorted(mine, key=lambda pod: (slots[pod.id] or 0, pod.created_at, pod.id))

    def _tidy(self, spec: Spec, pods: Sequence[Pod], raised: Raised) -> list[Pod]:
        """Ends what is stopped, late, double or too much; returns one pod for each slot that has one."""
        kept: dict[int, Pod] = {}
        surplus: list[Pod] = []
        # The one that runs is the one to keep.
        for pod in sorted(pods, key=lambda each: each.status != "RUNNING"):
            slot = slot_of(self.name, pod)
            if self.has_failed(pod, spec):
                age = (self.now() - pod.created_at).total_seconds()
                _log.warning(
                    "pod_replaced", pod=pod.name, id=pod.id, status=pod.status, age_seconds=round(age)
                )
                self.failed_starts += pod.status in WAITING or age < spec.start_seconds
                self._blame(pod)
                raised.ended.append(pod)
            elif slot is None or slot >= spec.pods or slot in kept:
                surplus.append(pod)
            else:
                kept[slot] = pod
        self.end(raised.ended, deliver=False)
        self.end(surplus, deliver=True)
        raised.ended += surplus
        return list(kept.values())

    def has_failed(self, pod: Pod, spec: Spec) -> bool:
        """Whether it has stopped, or does not start."""
        age = (self.now() - pod.created_at).total_seconds()
        return pod.status in ENDED or (pod.status in WAITING and age > spec.start_seconds)

    def _wants(self, slot: int) -> bool:
        """Whether that is still asked for: what another command has ended meanwhile must stay so."""
        self.ledger.reload()
        return self.ledger.spec is None or slot < self.ledger.spec.pods

    def _blame(self, pod: Pod) -> None:
        for each in self._failures:
            if (each.gpu, each.cloud) == (pod.gpu_id, pod.cloud):
                self._failures[each] += 1

    def _share(
        self, spec: Spec, pods: Sequence[Pod], missing: int, choices: Sequence[Candidate]
    ) -> float | None:
        """Dollars for each of the missing pods; None without a budget."""
        if spec.budget is None:
            return None
        running = [(pod.cost, deadline_of(pod)) for pod in pods]
        dollars = share(spec.budget, self.ledger.dollars, running, missing, self.now())
        cheapest = min(each.price for each in choices) * PRICE_MARGIN
        if dollars / cheapest * 3600 < LEAST_SECONDS:
            rest = ", and the rest is promised to the pods that run" if pods else ""
            raise BudgetUsedUpError(
                f"${self.ledger.dollars:.2f} of the budget of ${spec.budget:.2f} are spent{rest}",
                "raise --budget, or first `embedstream fleet scale 0`, which frees what is promised",
            )
        return dollars

    def _place(
        self,
        spec: Spec,
        slot: int,
        left: list[Candidate],
        dollars: float | None,
        environment: Environment,
    ) -> Pod | None:
        """Makes a pod with the first candidate that can be had; those that can't are taken out of `left`."""
        name = f"{self.name}-{slot}"
        while left:
            candidate = left[0]
            try:
                return self._try(spec, name, candidate, dollars, environment)
            except NextCandidate as refusal:
                self._refusal = f"{candidate}: {refusal}"
                _log.info("candidate_passed_over", candidate=str(candidate), why=str(refusal))
                left.remove(candidate)
        return None

    def _try(
        self, spec: Spec, name: str, candidate: Candidate, dollars: float | None, environment: Environment
    ) -> Pod:
        """Makes a pod of this kind.

        Raises:
            NextCandidate: It can't be had, costs too much, or would end before it had done anything.
        """
        price = candidate.price * PRICE_MARGIN
        if dollars is not None and dollars / price * 3600 < LEAST_SECONDS:
            raise NextCandidate(f"its share of the budget, ${dollars:.2f}, is too short a time")
        until = deadline(dollars, spec.max_hours, price, self.now())
        pod = self._create(
            CreatePod(
                name=name,
                image=spec.image,
                gpu=Gpu(id=candidate.gpu, min_cuda_version=spec.min_cuda),
                cloud=candidate.cloud,
                disk=spec.disk_gb,
                env=environment(name, candidate.price, None if until is None else until.isoformat()),
                ports=[f"{METRICS_PORT}/http"] if spec.expose_metrics else None,
                registry=spec.registry,
            )
        )
        # Its deadline was reckoned with the list price.
        limits = [price] if dollars is not None else []
        limits += [] if spec.max_price is None else [spec.max_price]
        if pod.cost > min(limits, default=pod.cost) + 1e-6:
            self.end([pod], deliver=False)
            raise NextCandidate(f"it costs ${pod.cost:.2f}/h")
        return pod

    def _create(self, request: CreatePod) -> Pod:
        """Makes a pod once, though answers get lost.

        Raises:
            NextCandidate: It can't be had, or no answer told whether it can.
        """
        why = ""
        for _ in range(ATTEMPTS):
            try:
                return self.runpod.create(request)
            except OutcomeUnknown as unknown:
                why = str(unknown)
                _log.warning("create_unanswered", pod=request.name, why=why)
            for pause in LOOK_PAUSES:
                self.sleep(pause)
                for pod in self.look():
                    if pod.name == request.name:
                        return pod
        raise NextCandidate(f"no answer to {ATTEMPTS} requests ({why})")


def _marker(pod: Pod) -> str | None:
    return pod.env.get(JOB_VARIABLE)
