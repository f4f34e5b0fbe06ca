"""What `tests.bench.overhead` compares, each in a process of its own so that its CPU seconds are its own.

    python -m tests.bench.overhead_worker JSON

The last line on stdout is a JSON object: `wall` and `cpu` seconds of the measured part, `threads` (CPU
seconds by thread), and what was done.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from consumer.daemon import Daemon
from consumer.encoder import Encoder
from consumer.outbound import OutboundRecord, OutputLayout, build_records
from consumer.prepare import decode, split
from consumer.records import EmbeddedWindow, Input, Window
from embedstream.kafka import make_producer
from embedstream.logs import configure
from embedstream.metrics import Metrics, declared
from embedstream.metrics_server import serve
from embedstream.settings import KafkaSettings, MetricsSettings, load
from schemas.wire import encode_document
from tests.bench.no_model import NoModel, Shape, documents, tokenizer

__all__ = ["feed"]

PARTITIONS = 4
# Texts of one call of the tokenizer: enough for its threads, whatever their length.
TOKENIZER_TEXTS = 1000
# For threads that end meanwhile. Each look takes 4 ms: four a second were 3% of what a daemon takes.
SAMPLE_SECONDS = 2.0


class Measured:
    """CPU and wall seconds of this process between two moments, and the CPU seconds of its threads."""

    def __init__(self) -> None:
        self._threads: dict[int, tuple[str, float]] = {}
        self._before: dict[int, float] = {}
        self._done = threading.Event()
        self._wall = self._cpu = 0.0

    def start(self) -> None:
        """Begins."""
        self._look()
        self._before = {number: seconds for number, (_, seconds) in self._threads.items()}
        threading.Thread(target=self._sample, name="sampler", daemon=True).start()
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def stop(self) -> dict[str, Any]:
        """Ends, and says what it took."""
        cpu, wall = cpu_seconds() - self._cpu, time.perf_counter() - self._wall
        self._look()
        self._done.set()
        by_name: dict[str, float] = defaultdict(float)
        for number, (name, seconds) in self._threads.items():
            by_name[name] += seconds - self._before.get(number, 0.0)
        return {"wall": wall, "cpu": cpu, "threads": dict(by_name)}

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        names = {each.native_id: each.name for each in threading.enumerate()}
        for each in psutil.Process().threads():
            try:
                native = Path(f"/proc/self/task/{each.id}/comm").read_text().strip()
            except OSError:
                continue
            # Python's own threads by their names; librdkafka's and the tokenizer's by the system's.
            known = self._threads.get(each.id)
            name = names.get(each.id) or (known[0] if known else native)
            self._threads[each.id] = name, each.user_time + each.system_time


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def measured(result: dict[str, Any]) -> Iterator[None]:
    """Measures a block into `result`."""
    clock = Measured()
    clock.start()
    yield
    result.update(clock.stop())


def feed(bootstrap: str, topic: str, shape: Shape, count: int) -> None:
    """Fills the documents topic."""
    producer = make_producer(KafkaSettings(bootstrap_servers=bootstrap))
    for number, document in enumerate(documents(shape, count)):
        value = encode_document(document)
        while True:
            try:
                producer.produce(topic, value, document.id, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.2)
    assert producer.flush(60) == 0


def tokenizer_alone(shape: Shape, count: int) -> dict[str, Any]:
    """All texts through the tokenizer, nothing else."""
    texts = [each.content for each in documents(shape, count)]
    alone = tokenizer()
    alone.no_truncation()
    alone.no_padding()
    alone.encode_batch(texts[:TOKENIZER_TEXTS], add_special_tokens=False)
    result: dict[str, Any] = {}
    tokens = 0
    with measured(result):
        for start in range(0, len(texts), TOKENIZER_TEXTS):
            encodings = alone.encode_batch(texts[start : start + TOKENIZER_TEXTS], add_special_tokens=False)
            tokens += sum(map(len, encodings))
    return result | {"passages": count, "tokens": tokens + 2 * count}


def producer_alone(bootstrap: str, topic: str, shape: Shape, count: int, transaction: int) -> dict[str, Any]:
    """The records that the daemon produces, through a transactional producer, nothing else."""
    records = list(_records(NoModel(), topic, shape, count))
    settings = KafkaSettings(bootstrap_servers=bootstrap)
    producer = make_producer(settings, transactional_id=uuid.uuid4().hex)
    producer.init_transactions(30)
    result: dict[str, Any] = {}
    with measured(result):
        for start in range(0, len(records), transaction):
            producer.begin_transaction()
            for record in records[start : start + transaction]:
                while True:
                    try:
                        producer.produce(record.topic, record.value, record.key, partition=record.partition)
                        break
                    except BufferError:
                        producer.poll(0.2)
            producer.commit_transaction(30)
    size = sum(len(each.value or b"") for each in records)
    return result | {"passages": len(records), "bytes": size}


def _records(encoder: NoModel, topic: str, shape: Shape, count: int) -> Iterator[OutboundRecord]:
    layout = OutputLayout(topic, PARTITIONS, 1 << 20, "unused", PARTITIONS, 1 << 22)
    made = documents(shape, count)
    for start in range(0, count, TOKENIZER_TEXTS):
        inputs = [
            Input("documents", number % PARTITIONS, number, 1, each.id.encode(), encode_document(each), (), 0)
            for number, each in enumerate(made[start : start + TOKENIZER_TEXTS], start)
        ]
        items = split([decode(each) for each in inputs], encoder.splitter)
        vectors = encoder.encode([p.token_ids for item in items for p in item.passages])  # type: ignore[union-attr]
        window = EmbeddedWindow(Window(1, tuple(items), 0), tuple(vectors))
        for built in build_records(window, layout, encoder.info, store_text=True, now_ms=0):
            yield from built.records


class _Timed(NoModel):
    """Takes so long for each batch, as a device does, and no CPU; the clock starts after so many passages."""

    def __init__(self, clock: Measured, after: int, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._after = after
        self._seconds = seconds
        self.passages = self.before = 0
        if not after:
            clock.start()

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        if self._seconds:
            time.sleep(self._seconds)
        if self.passages < self._after <= self.passages + len(batch):
            self.before = self.passages
            self._clock.start()
        self.passages += len(batch)
        return super().encode(batch)


def daemon(
    flags: dict[str, Any], count: int, port: int | None = None, seconds: float = 0.0, after: int = 0
) -> dict[str, Any]:
    """A whole daemon with the model replaced, from its model's load until it has left the group.

    With a port, its metrics are served there; a batch takes so many seconds; with `after`, what is measured
    begins when so many passages are encoded.
    """
    clock = Measured()
    models: list[_Timed] = []

    def load_model() -> Encoder:
        models.append(_Timed(clock, after, seconds))
        return models[0]

    whole = Daemon(load(flags=flags), load_model)
    if port is not None:
        serve(whole.metrics, MetricsSettings(port=port))
    whole.run()
    result = clock.stop()
    value = whole.metrics.registry.get_sample_value
    passages = value("embedstream_passages_total")
    assert passages is not None
    assert passages >= count
    return result | {
        "passages": passages - models[0].before,
        "tokens": value("embedstream_tokens_total"),
        "windows": value("embedstream_transactions_total", {"result": "committed"}),
    }


class _Mute:
    """Every metric at once, and none."""

    def __getattr__(self, _: str) -> Callable[..., _Mute]:
        return lambda *_, **__: self

    def __enter__(self) -> _Mute:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Quiet(Metrics):
    def __init__(self) -> None:
        super().__init__()
        vars(self).update({each.name: _Mute() for each in declared()})


def silent_daemon(flags: dict[str, Any], seconds: float = 0.0, after: int = 0) -> dict[str, Any]:
    """The same without any metric, or anyone that looks at the group."""
    import consumer.daemon

    vars(consumer.daemon)["Reporting"] = lambda *_: _Mute()
    clock = Measured()
    models: list[_Timed] = []

    def load_model() -> Encoder:
        models.append(_Timed(clock, after, seconds))
        return models[0]

    Daemon(load(flags=flags), load_model, _Quiet()).run()
    return clock.stop() | {"passages": models[0].passages - models[0].before}


JOBS: dict[str, Callable[..., Any]] = {
    "feed": feed,
    "tokenizer": tokenizer_alone,
    "producer": producer_alone,
    "daemon": daemon,
    "silent_daemon": silent_daemon,
}


def main(arguments: Sequence[str]) -> None:
    """Runs one job."""
    configure(level="WARNING")
    asked = json.loads(arguments[0])
    if "shape" in asked:
        asked["shape"] = Shape(**asked["shape"])
    print(json.dumps(JOBS[asked.pop("job")](**asked)))


if __name__ == "__main__":
    main(sys.argv[1:])
