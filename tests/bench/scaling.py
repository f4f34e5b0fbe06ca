"""How throughput grows with consumers: measured with one to four processes here, simulated for pods.

    python -m tests.bench.scaling [--seconds-per-batch 0.17]

Measured: daemons of one group on Apache Kafka, all of them real but the model: vectors of 1,024 floats that
were drawn beforehand. Once with nothing to wait for, where the machine's cores are the limit; once with
`--seconds-per-batch` for each batch of up to 16,384 tokens, as if a GPU worked meanwhile (0.17 is some 96,000
tokens a second). There are as many records for each daemon however many there are; the rate is of what is
delivered from when all daemons have partitions until the first has no more. Also measured: the CPU time that
the broker and the daemons spend on a passage.

Simulated, with those CPU times: pods that each encode windows of two seconds (longer where one core of the
pod needs longer for the daemon's own work), one being encoded, one ready, one being delivered, as the daemon
does; a delivery waits for one of the broker's cores, takes its CPU time there, and then the time that a
commit takes. Assumed: all pods equally fast, partitions a multiple of the pods, a network that is no limit
(its need is printed), nothing dies.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from embedstream.broker import ends_with_parent
from embedstream.logs import configure
from tests.bench.delivery import send
from tests.bench.no_model import NoModel
from tests.brokers import ApacheCluster, find_kafka
from tests.cli import clean_environment
from tests.kafka import Topics, make_topics

__all__ = ["Costs", "Measured", "simulate"]

PARTITIONS = 8
CONSUMERS = (1, 2, 4)
DIM = 1024
WINDOW_SECONDS = 2.0
# Of a pod: an RTX 4090 with bge-large at some 240 tokens, as `embedstream estimate` models it.
PASSAGES_PER_SECOND = 400.0
# Of a commit on one node of Apache Kafka, whatever its size; on three it took 0.1.
COMMIT_SECONDS = 0.05
BROKER_CORES = 2
PASSAGE_BYTES = 1024 * 4 + 1300


@dataclass(frozen=True)
class Measured:
    """What some daemons did together: rates a second, CPU seconds in all."""

    consumers: int
    records_per_second: float
    passages: int
    broker_cpu: float
    consumers_cpu: float


@dataclass(frozen=True)
class Costs:
    """CPU seconds that a passage takes, of the broker and of its consumer."""

    broker: float
    consumer: float


class Waiting(NoModel):
    """Waits for each batch as for a GPU; vectors as long as those of bge-large."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.info = replace(self.info, dim=DIM)
        self._vectors = np.random.default_rng(0).standard_normal((1024, DIM), np.float32)
        self._vectors /= np.linalg.norm(self._vectors, axis=1, keepdims=True)

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        return np.resize(self._vectors, (len(batch), DIM))


def daemon(seconds: float, flags: Sequence[str]) -> None:
    """`embedstream consume FLAGS...` with that encoder; ends the process."""
    import consumer.model
    from embedstream.cli import main as cli

    consumer.model.load_encoder = lambda *_: Waiting(seconds)
    sys.argv[1:] = ["consume", *flags]
    cli()


def measure(cluster: ApacheCluster, topics: Topics, consumers: int, seconds: float, folder: Path) -> Measured:
    """Lets so many daemons drain the topic."""
    name = topics.documents
    environment = clean_environment({"PYTHONPATH": os.pathsep.join(sys.path)})
    command = [sys.executable, "-m", "tests.bench.scaling", "--daemon", str(seconds), *topics.flags]
    command += ["--group", name, "--until-drained", "--metrics-port", "-1", "--instance-id"]
    logs = [folder / f"{name}-{number}" for number in range(consumers)]
    before = _broker_cpu(cluster)
    daemons = []
    for number, log in enumerate(logs):
        with log.open("wb") as output:
            wrapped = ends_with_parent([*command, f"i{number}"], signal.SIGKILL)
            daemons.append(subprocess.Popen(wrapped, env=environment, stdout=output, stderr=output))
    cpu = 0.0
    for each in daemons:
        # The CPU time of a child is known when it has been waited for.
        _, status, usage = os.wait4(each.pid, 0)
        each.returncode = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
    assert [each.returncode for each in daemons] == [0] * consumers, logs[0].read_text()[-2000:]
    rate, passages, idle_cpu = _rate([_events(log) for log in logs])
    return Measured(consumers, rate, passages, _broker_cpu(cluster) - before, cpu - idle_cpu)


def _broker_cpu(cluster: ApacheCluster) -> float:
    times = [psutil.Process(node.pid).cpu_times() for node in cluster.nodes]
    return sum(each.user + each.system for each in times)


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def _rate(logs: list[list[dict[str, Any]]]) -> tuple[float, int, float]:
    """Records a second from when all had partitions; passages in all; CPU of starting, taken as 2 s each."""

    def at(event: Mapping[str, Any]) -> float:
        return datetime.fromisoformat(event["timestamp"]).timestamp()

    windows = [event for events in logs for event in events if event["event"] == "window_delivered"]
    began = max(
        min(at(event) for event in events if event["event"] == "partitions_assigned") for events in logs
    )
    ended = min(max(at(event) for event in events if event["event"] == "window_delivered") for events in logs)
    done = sum(event["records"] for event in windows if began < at(event) <= ended)
    return done / (ended - began), sum(event["passages"] for event in windows), 2.0 * len(logs)


def simulate(
    pods: int,
    costs: Costs,
    *,
    rate: float = PASSAGES_PER_SECOND,
    cores: int = BROKER_CORES,
    seconds: float = 600.0,
) -> float:
    """Passages a second of all pods together.

    Args:
        pods: How many.
        costs: As measured.
        rate: Passages a second that one pod's GPU encodes.
        cores: Of the broker.
        seconds: How long to simulate.
    """
    window = rate * WINDOW_SECONDS
    takes = max(WINDOW_SECONDS, window * costs.consumer)
    service = window * costs.broker
    # When each core of the broker is free.
    free = [0.0] * cores
    delivered = 0.0
    # When a pod has its next window ready, spread as pods start.
    ready = [(takes * (1 + pod / pods), pod) for pod in range(pods)]
    heapq.heapify(ready)
    landed = [[0.0, 0.0] for _ in range(pods)]
    while ready:
        now, pod = heapq.heappop(ready)
        # A pod delivers one window at a time.
        asks = max(now, landed[pod][-1])
        core = min(range(cores), key=free.__getitem__)
        free[core] = max(asks, free[core]) + service
        ends = free[core] + COMMIT_SECONDS
        if ends > seconds:
            continue
        delivered += window
        # Two windows wait for delivery at most: then the GPU waits.
        following = max(now + takes, landed[pod][-1])
        landed[pod] = [landed[pod][-1], ends]
        heapq.heappush(ready, (following, pod))
    return delivered / seconds


def main() -> None:
    """Prints the measurements and the simulation as JSON."""
    if sys.argv[1:2] == ["--daemon"]:
        daemon(float(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--records", type=int, default=12_000, help="for each daemon; a third as many if it waits"
    )
    parser.add_argument("--seconds-per-batch", type=float, default=0.17)
    given = parser.parse_args()
    configure(level="ERROR")
    found: dict[str, list[Measured]] = {"busy": [], "waiting": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        ApacheCluster(find_kafka(), Path(folder) / "kafka") as cluster,
    ):
        for consumers in CONSUMERS:
            for way, seconds in (("busy", 0.0), ("waiting", given.seconds_per_batch)):
                topics = make_topics(cluster.bootstrap, PARTITIONS, "bench")
                send(topics, consumers * given.records)
                found[way].append(measure(cluster, topics, consumers, seconds, Path(folder)))
    two = [each for each in found["waiting"] if each.consumers == 2]
    costs = Costs(
        min(each.broker_cpu / each.passages for each in two),
        min(each.consumers_cpu / each.passages for each in two),
    )
    alone = simulate(1, costs)
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "records": given.records,
        "seconds_per_batch": given.seconds_per_batch,
        "records_per_second": {
            way: {str(each.consumers): round(each.records_per_second) for each in runs}
            for way, runs in found.items()
        },
        "runs": {way: [asdict(each) for each in runs] for way, runs in found.items()},
        "cpu_microseconds_per_passage": {name: round(1e6 * cost, 1) for name, cost in asdict(costs).items()},
        "simulated": {
            str(pods): {
                "passages_per_second": round(simulate(pods, costs)),
                "times_one_pod": round(simulate(pods, costs) / alone, 1),
                "into_the_broker_megabytes_per_second": round(simulate(pods, costs) * PASSAGE_BYTES / 1e6, 1),
            }
            for pods in (4, 16, 64)
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
