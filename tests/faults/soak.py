"""Whole runs with clusters of their own: hundreds of faults against three brokers, or as many as you like.

python -m tests.faults.soak                                     # 160 faults under each group protocol
python -m tests.faults.soak --seed 7 --faults 20 --brokers 1 --protocol consumer
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from embedstream.logs import configure
from tests.brokers import ApacheCluster, find_kafka
from tests.faults.harness import BROKER_SETTINGS
from tests.faults.network import Network, find_toxiproxy
from tests.faults.run import DAEMON_NAMES, Report, run_faults
from tests.faults.schedule import BROKER_FAULTS, DATA_FAULTS, NETWORK_FAULTS, PROCESS_FAULTS, family

__all__ = ["Soak", "all_kinds", "run_together"]

LEAST_SHARE = 0.05
# A broker that comes back aborts overdue transactions before it can reach itself. Where the transactions' own
# topic has one copy, Apache Kafka 4.4 may then take them for aborted without having written so into their
# partitions, where they stay open for ever (see README.md).
BROKER_DEATHS = ("broker_kill", "broker_disk_full")
# What only a transaction has.
WITHIN_TRANSACTION = ("kill_after_send_offsets", "kill_during_commit")


@dataclass(frozen=True)
class Soak:
    """One run: what its seed and these make of it is the same each time, but for the machine's timing."""

    seed: int
    faults: int
    brokers: int = 3
    protocol: str = "classic"
    delivery: str = "exactly-once"
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The flags that run it again."""
        flags = (
            f"--seed {self.seed} --faults {self.faults} --brokers {self.brokers}"
            f" --protocol {self.protocol} --delivery {self.delivery}"
        )
        return " ".join([flags, *(["--kinds", *self.kinds] if self.kinds else [])])


def all_kinds(delivery: str = "exactly-once", brokers: int = 3) -> tuple[str, ...]:
    """Every kind of fault that can be done on this machine, and to which so many brokers are equal."""
    network = NETWORK_FAULTS if find_toxiproxy() is not None else ()
    kinds = (*PROCESS_FAULTS, *DATA_FAULTS, *BROKER_FAULTS, *network)
    unfit = WITHIN_TRANSACTION if delivery == "at-least-once" else BROKER_DEATHS if brokers == 1 else ()
    return tuple(each for each in kinds if each not in unfit)


def run_together(soaks: Sequence[Soak], at_once: int = 2) -> list[Report]:
    """Runs them in processes of their own, a few at once: most of a run is waiting."""
    # Fresh processes: a Kafka client does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(_run, soaks))


def _run(soak: Soak) -> Report:
    configure(level="ERROR")
    name = f"{soak.protocol}, {soak.delivery}, seed {soak.seed}: "

    def tell(text: str) -> None:
        print("".join(f"{name}{line}\n" for line in text.splitlines()), end="", flush=True)

    tell(f"begins; again: python -m tests.faults.soak {soak}")
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        cluster = ApacheCluster(find_kafka(), folder / "kafka", soak.brokers, BROKER_SETTINGS)
        server = find_toxiproxy()
        network = stack.enter_context(Network(server, cluster, DAEMON_NAMES)) if server else None
        stack.enter_context(cluster)
        report = run_faults(
            cluster,
            folder,
            name=str(soak),
            seed=soak.seed,
            count=soak.faults,
            kinds=soak.kinds or all_kinds(soak.delivery, soak.brokers),
            protocol=soak.protocol,
            delivery=soak.delivery,
            network=network,
            tell=tell,
        )
    if report.problems:
        tell(f"the daemons' logs and the brokers' data are in {folder}")
    else:
        shutil.rmtree(folder)
    tell(str(report))
    return report


def _too_few(report: Report, wanted: set[str]) -> list[str]:
    """What a soak must have had, and did not."""
    count = report.faults.total()
    few = [
        f"{each}: less than 5% of the faults"
        for each in wanted
        if report.families[each] < LEAST_SHARE * count
    ]
    if report.open_kills * 3 < report.kills:
        few.append(f"{report.open_kills} of {report.kills} kills hit an open transaction: less than a third")
    return few


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--faults", type=int, default=160, help="of each run")
    parser.add_argument("--brokers", type=int, default=3, choices=(1, 3))
    protocols = ("classic", "consumer")
    parser.add_argument("--protocol", nargs="+", default=protocols, choices=protocols, help="a run with each")
    parser.add_argument("--delivery", default="exactly-once", choices=("exactly-once", "at-least-once"))
    parser.add_argument("--kinds", nargs="+", default=(), choices=all_kinds(), help="(default: all)")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    given = parser.parse_args()
    soaks = [
        Soak(given.seed, given.faults, given.brokers, protocol, given.delivery, tuple(given.kinds))
        for protocol in given.protocol
    ]
    started = time.monotonic()
    report = functools.reduce(Report.__add__, run_together(soaks, given.at_once))
    minutes = (time.monotonic() - started) / 60
    few = (
        []
        if given.kinds
        else _too_few(report, {family(each) for each in all_kinds(given.delivery, given.brokers)})
    )
    print(f"together, in {minutes:.1f} minutes on {os.cpu_count()} cores, {platform.machine()}: {report}")
    print("\n".join(few))
    return 1 if report.problems or few else 0


if __name__ == "__main__":
    sys.exit(main())
