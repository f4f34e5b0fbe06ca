"""A whole run with a cluster of its own: hundreds of faults against three brokers, or as many as you like.

python -m tests.faults.soak --seed 7 --faults 300 --brokers 3 --protocol consumer
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.brokers import ApacheCluster, find_kafka
from tests.faults.harness import BROKER_SETTINGS
from tests.faults.network import Network, find_toxiproxy
from tests.faults.run import DAEMON_NAMES, Report, run_faults
from tests.faults.schedule import BROKER_FAULTS, DATA_FAULTS, NETWORK_FAULTS, PROCESS_FAULTS

__all__ = ["all_kinds", "soak"]


def all_kinds() -> tuple[str, ...]:
    """Every kind of fault that can be done on this machine."""
    network = NETWORK_FAULTS if find_toxiproxy() is not None else ()
    return (*PROCESS_FAULTS, *DATA_FAULTS, *BROKER_FAULTS, *network)


def soak(
    home: Path,
    *,
    seed: int,
    faults: int,
    brokers: int,
    protocol: str,
    kinds: Sequence[str] | None = None,
    tell: Callable[[str], None] = print,
) -> Report:
    """Starts a cluster and injects faults, of all kinds if none is named; `home` holds Apache Kafka."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = ApacheCluster(home, folder / "kafka", brokers, BROKER_SETTINGS)
        server = find_toxiproxy()
        network = stack.enter_context(Network(server, cluster, DAEMON_NAMES)) if server else None
        stack.enter_context(cluster)
        return run_faults(
            cluster,
            folder,
            seed=seed,
            count=faults,
            kinds=kinds or all_kinds(),
            protocol=protocol,
            network=network,
            tell=tell,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--brokers", type=int, default=3, choices=(1, 3))
    parser.add_argument("--protocol", default="classic", choices=("classic", "consumer"))
    parser.add_argument("--kinds", nargs="+", choices=all_kinds(), help="(default: all)")
    report = soak(find_kafka(), **vars(parser.parse_args()), tell=partial(print, flush=True))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
