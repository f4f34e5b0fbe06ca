"""How much of its time a GPU would have work: a whole daemon, Kafka to Kafka, and a device as fast as one.

    python -m tests.bench.busy [BOOTSTRAP] [--rates 160000 400000] [--seconds 20] [--rounds 3]

The device is a thread that computes nothing, holds three batches as a GPU does, and is done with each after
its tokens at the rate. The daemon decodes, splits, batches and delivers on the cores beside it, where the
broker runs too. What counts is the share of the time from its first batch to the end of its last in which the
device had one.

An RTX 4090 has 165 TFLOP/s in fp16 with fp32 sums (NVIDIA's Ada white paper, dense); 65% of them make 160,000
tokens a second of bge-large's 0.66 GFLOP.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.daemon import Daemon
from consumer.encoder import Encoder
from embedstream.logs import configure
from embedstream.settings import load
from tests.bench.no_model import NoModel, Shape
from tests.bench.overhead_worker import feed
from tests.brokers import a_broker
from tests.kafka import Topics, make_topics

__all__ = ["measure"]

Ids = NDArray[np.int32]

PASSAGE = Shape("long", 1490)
PASSAGE_TOKENS = 330
PARTITIONS = 4


class Device(NoModel):
    """Takes its time for each batch, one after the other, and no CPU."""

    in_flight = 3

    def __init__(self, tokens_per_second: float) -> None:
        super().__init__()
        self._rate = tokens_per_second
        self._flights: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        self.began: float | None = None
        self.ended = self.busy = 0.0
        threading.Thread(target=self._work, name="device", daemon=True).start()

    def submit(self, batch: Sequence[Ids]) -> Flight:
        """Puts a batch behind those that wait."""
        flight = Flight(self, batch, time.perf_counter(), Future())
        self._flights.put(flight)
        return flight

    def _work(self) -> None:
        while True:
            flight = self._flights.get()
            if self.began is None:
                self.began = flight.submitted
            seconds = sum(map(len, flight.batch)) / self._rate
            # A real device needs no thread of Python's: it begins as soon as there is something, though this
            # one still waits for the interpreter lock.
            self.ended = max(self.ended, flight.submitted) + seconds
            self.busy += seconds
            time.sleep(max(0.0, self.ended - time.perf_counter()))
            flight.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that the device works on."""

    device: Device
    batch: Sequence[Ids]
    submitted: float
    done: Future[None]

    def result(self) -> NDArray[np.float32]:
        """Waits for it."""
        self.done.result()
        return self.device.encode(self.batch)


def measure(bootstrap: str, rates: Sequence[float], seconds: float, rounds: int) -> dict[str, Any]:
    """Runs a daemon at each rate in turn, over passages of about 330 tokens that take it so many seconds.

    Returns:
        By rate the share of its time in which the device was busy: the median, and each.
    """
    counts = {rate: max(1, round(rate * seconds / PASSAGE_TOKENS)) for rate in rates}
    inputs = make_topics(bootstrap, PARTITIONS, "busy")
    documents = {rate: make_topics(bootstrap, PARTITIONS, "busy").documents for rate in rates}
    for rate, topic in documents.items():
        feed(bootstrap, topic, PASSAGE, counts[rate])
    shares: dict[float, list[float]] = {rate: [] for rate in rates}
    for _ in range(rounds):
        for rate in rates:
            shares[rate].append(_share(inputs, documents[rate], rate))
    return {
        f"{rate:,.0f} tokens/s": {
            "busy": round(statistics.median(each), 4),
            "each": [round(share, 4) for share in each],
        }
        for rate, each in shares.items()
    }


def _share(inputs: Topics, documents: str, rate: float) -> float:
    outputs = make_topics(inputs.bootstrap, PARTITIONS, "busy")
    flags = {
        "kafka.bootstrap_servers": inputs.bootstrap,
        "kafka.documents_topic": documents,
        "kafka.embeddings_topic": outputs.embeddings,
        "kafka.dead_letters_topic": outputs.dead_letters,
        "consumer.group": uuid.uuid4().hex,
        "consumer.until_drained": True,
    }
    devices: list[Device] = []

    def load_device() -> Encoder:
        devices.append(Device(rate))
        return devices[0]

    Daemon(load(flags=flags), load_device).run()
    (device,) = devices
    assert device.began is not None
    return device.busy / (device.ended - device.began)


def main() -> None:
    """Prints the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bootstrap", nargs="?", help="a broker; without it, Apache Kafka is started")
    parser.add_argument("--rates", type=float, nargs="+", default=[160_000, 400_000], help="tokens a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="what the device needs for all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    configure(level="WARNING")
    with a_broker(arguments.bootstrap) as bootstrap:
        found = measure(bootstrap, arguments.rates, arguments.seconds, arguments.rounds)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
