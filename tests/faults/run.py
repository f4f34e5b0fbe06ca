"""A run: faults from a seed, one after the other, then a calm end and the final word."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.brokers import ApacheCluster
from tests.faults.harness import PARTITIONS, Harness
from tests.faults.inject import MOST_DAEMONS, Injector
from tests.faults.network import Network
from tests.faults.schedule import Fault, Pack

__all__ = ["DAEMON_NAMES", "Report", "run_faults"]

DAEMONS = 3
DAEMON_NAMES = tuple(f"slot-{number}" for number in range(MOST_DAEMONS))
BACKLOG_RECORDS = 300
# A batch takes a while, as on a small GPU: about 200 records a second come of three daemons.
ENCODER: dict[str, object] = {"seconds": 0.05, "token_budget": 512}
# Above all that may add up: a session, a transaction, a broker's start, an election, a daemon's start.
STUCK_SECONDS = 90.0


@dataclass
class Report:
    """What a run did and found.

    Attributes:
        recoveries: Seconds from each fault until every partition that had work had output again.
        problems: What is wrong; empty for a run without fault of ours.
    """

    seed: int
    protocol: str
    brokers: int
    faults: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    open_kills: int = 0
    records: int = 0
    passages: int = 0
    dead_letters: int = 0
    deletions: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = dict(vars(self))
        times = told.pop("recoveries")
        told["recovery_median"] = round(statistics.median(times), 1) if times else None
        told["recovery_worst"] = round(max(times), 1) if times else None
        return json.dumps(told, indent=2)


def run_faults(
    cluster: ApacheCluster,
    folder: Path,
    *,
    seed: int,
    count: int,
    kinds: Sequence[str],
    protocol: str = "classic",
    network: Network | None = None,
    tell: Callable[[str], None] = print,
) -> Report:
    """Injects `count` faults while work goes on, drains the topic, and checks everything."""
    report = Report(seed, protocol, len(cluster.nodes))
    rng = random.Random(seed)
    started = time.monotonic()
    tell(f"seed {seed}, {count} faults, {protocol}, {report.brokers} broker(s)")
    with Harness(cluster, folder, seed=seed, protocol=protocol, encoder=ENCODER, network=network) as harness:
        injector = Injector(harness, rng)
        try:
            _inject_all(harness, injector, Pack(kinds, rng), count, report, tell)
            harness.drain()
        except AssertionError as error:
            report.problems.append(str(error))
            harness.fleet.told(tell)
        harness.settle()
        outcome, problems = harness.check()
        if problems and not report.problems:
            harness.fleet.told(tell)
        report.problems += problems
        report.hits = injector.hits
        report.kills, report.open_kills = injector.kills, injector.open_kills
        report.exits = harness.fleet.exits
        report.records, report.passages = outcome.inputs, outcome.embeddings
        report.dead_letters, report.deletions = outcome.dead_letters, outcome.deletions
        report.seconds = round(time.monotonic() - started, 1)
    tell(str(report))
    return report


def _inject_all(
    harness: Harness, injector: Injector, pack: Pack, count: int, report: Report, tell: Callable[[str], None]
) -> None:
    """A fault counts only if it took hold while there was work, after output had moved since the last."""
    harness.backlog_wanted = BACKLOG_RECORDS
    for name in DAEMON_NAMES[:DAEMONS]:
        harness.fleet.add(name)
    started = time.monotonic()
    harness.wait(lambda: len(harness.moved_since(started)) > 0, 60, "no output comes")
    while report.faults.total() < count:
        fault = pack.deal()
        harness.wait(lambda: len(harness.backlog) == PARTITIONS, 60, "no work is left")
        if not injector.inject(fault):
            pack.put_back(fault)
            harness.tick()
            continue
        took_hold = time.monotonic()
        report.faults[fault.kind] += 1
        tell(f"{took_hold - started:6.1f} s  fault {report.faults.total()}: {fault.kind}")
        _recover(harness, fault, took_hold, report)


def _recover(harness: Harness, fault: Fault, moment: float, report: Report) -> None:
    everything = harness.everything_moves(moment)
    recovered = False

    def note() -> bool:
        nonlocal recovered
        recovered = everything()
        if recovered:
            report.recoveries.append(time.monotonic() - moment)
        return recovered

    harness.watch(note)
    if fault.hasty:
        harness.wait(lambda: harness.moved_since(moment), STUCK_SECONDS, f"nothing moves after {fault.kind}")
    else:
        harness.wait(lambda: recovered, STUCK_SECONDS, f"not everything moves after {fault.kind}")
