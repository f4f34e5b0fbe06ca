"""A run: faults from a seed, one after the other, then a calm end and the final word."""

from __future__ import annotations

import json
import random
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.brokers import ApacheCluster
from tests.faults.harness import PARTITIONS, Harness
from tests.faults.inject import MOST_DAEMONS, Injector
from tests.faults.network import Network
from tests.faults.schedule import Fault, Pack, family

__all__ = ["DAEMON_NAMES", "Report", "run_faults"]

DAEMONS = 3
DAEMON_NAMES = tuple(f"slot-{number}" for number in range(MOST_DAEMONS))
BACKLOG_RECORDS = 300
# A batch takes a while, as on a small GPU: about 200 records a second come of three daemons.
ENCODER: dict[str, object] = {"seconds": 0.05, "token_budget": 512}
# Above all that may add up: a session, a transaction, a broker's start, an election, a daemon's start.
STUCK_SECONDS = 180.0


@dataclass
class Report:
    """What runs did and found; reports can be added.

    Attributes:
        faults: How many took hold, by kind.
        hits: How often a failpoint was hit while it was armed.
        open_kills: Of the kills, those that hit an open transaction, as the dead process had noted.
        missing: Input records below the committed offsets without output.
        doubles: Output records that came before.
        recoveries: Seconds from each fault until every partition that had work had output again.
        problems: What is wrong; empty for a run without fault of ours.
    """

    runs: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    open_kills: int = 0
    records: int = 0
    passages: int = 0
    dead_letters: int = 0
    deletions: int = 0
    missing: int = 0
    doubles: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __add__(self, other: Report) -> Report:
        return Report(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    @property
    def families(self) -> Counter[str]:
        """How many faults there were of each kind, wherever they struck."""
        families: Counter[str] = Counter()
        for kind, count in self.faults.items():
            families[family(kind)] += count
        return families

    def __str__(self) -> str:
        told = dict(vars(self))
        times = told.pop("recoveries")
        told["count"] = self.faults.total()
        told["families"] = self.families
        told["recovery_median"] = round(statistics.median(times), 1) if times else None
        told["recovery_worst"] = round(max(times), 1) if times else None
        return json.dumps(told, indent=2)


def run_faults(
    cluster: ApacheCluster,
    folder: Path,
    *,
    name: str,
    seed: int,
    count: int,
    kinds: Sequence[str],
    protocol: str = "classic",
    delivery: str = "exactly-once",
    network: Network | None = None,
    tell: Callable[[str], None] = print,
) -> Report:
    """Injects `count` faults while work goes on, drains the topic, and checks everything."""
    report = Report([name])
    rng = random.Random(seed)
    started = time.monotonic()
    with Harness(
        cluster, folder, seed=seed, protocol=protocol, delivery=delivery, encoder=ENCODER, network=network
    ) as harness:
        injector = Injector(harness, rng)
        try:
            _inject_all(harness, injector, Pack(kinds, rng), count, report, tell)
            harness.drain()
        except Exception as error:
            # Whatever it is: what is in the topics so far is looked at all the same.
            report.problems.append(
                str(error) if isinstance(error, AssertionError) else traceback.format_exc()
            )
            harness.fleet.told(tell)
        harness.settle()
        outcome, problems = harness.check()
        if problems and not report.problems:
            harness.fleet.told(tell)
        (folder / "doubles").write_text("\n".join(harness.reader.doubles))
        report.problems += problems
        report.hits = injector.hits
        report.kills, report.open_kills = injector.kills, injector.open_kills
        report.exits, report.restarts = harness.fleet.exits, harness.fleet.restarts
        report.records, report.passages = outcome.inputs, outcome.embeddings
        report.dead_letters, report.deletions = outcome.dead_letters, outcome.deletions
        report.missing, report.doubles = len(outcome.missing), outcome.repeated
        report.seconds = round(time.monotonic() - started, 1)
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
