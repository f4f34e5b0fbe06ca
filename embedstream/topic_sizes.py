"""How many bytes lie between the offsets of a topic, from a sample: a few records of each stretch.

A topic of 200 GB is sampled with some hundred short reads. A small one is read as a whole, in effect.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from embedstream.kafka import make_consumer
from embedstream.progress import Profile, Stratum
from embedstream.settings import KafkaSettings

__all__ = ["sample_sizes"]

# Of the whole topic, and of one partition: the sum of 16 strata of a corpus sorted by size, whose largest
# document is a hundred times the smallest, is exact to half a hundredth. Each costs the client a batch to
# fetch and unpack.
PROBES = 128
PARTITION_PROBES = 16
PROBE_RECORDS = 16
PROBE_SECONDS = 5.0
POLL_SECONDS = 0.2


@dataclass(slots=True)
class _Probe:
    """What was read of a stratum: the sizes of its records, and the offsets that they span."""

    start: int
    end: int
    sizes: list[int] = field(default_factory=list)
    first: int | None = None
    last: int = 0
    done: bool = False

    @property
    def middle(self) -> int:
        return max(self.start, (self.start + self.end - PROBE_RECORDS) // 2)

    def take(self, offset: int, size: int) -> None:
        """A record; one behind the stratum says that the rest of it holds nothing."""
        if offset < self.end:
            self.first = self.middle if self.first is None else self.first
            self.last = offset
            self.sizes.append(size)
        self.done = self.done or offset + 1 >= self.end or len(self.sizes) >= PROBE_RECORDS

    def stratum(self, mean: float) -> Stratum:
        """The stratum, with the mean given where nothing was read."""
        if self.first is None:
            return Stratum(self.start, self.end, mean, mean)
        # Offsets of markers and aborted records weigh nothing.
        share = len(self.sizes) / (self.last - self.first + 1)
        deviation = statistics.stdev(self.sizes) if len(self.sizes) > 1 else 0.0
        is_whole = self.last - self.first + 1 >= self.end - self.start
        error = 0.0 if is_whole else deviation * share / len(self.sizes) ** 0.5
        return Stratum(self.start, self.end, statistics.fmean(self.sizes) * share, error)


def sample_sizes(
    kafka: KafkaSettings,
    topic: str,
    ranges: Mapping[int, tuple[int, int]],
    stopping: Callable[[], bool] = lambda: False,
) -> Profile:
    """Read a few records of each stretch of each partition.

    Args:
        kafka: How to connect.
        topic: What to read.
        ranges: For each partition its first offset and the one behind its last.
        stopping: Asked between reads; what was not read then weighs like the rest.

    Returns:
        Bytes of the records' values by offset; one byte an offset where nothing could be read at all.
    """
    probes = {p: _strata(start, end, len(ranges)) for p, (start, end) in ranges.items()}
    rounds = max((len(each) for each in probes.values()), default=0)
    if rounds:
        consumer = make_consumer(
            kafka,
            group_id="embedstream-sizes",
            fetch_message_max_bytes=64 * 1024,
            queued_max_messages_kbytes=2048,
            fetch_wait_max_ms=100,
        )
        try:
            for number in range(rounds):
                if stopping():
                    break
                _read(consumer, topic, {p: each[number] for p, each in probes.items() if number < len(each)})
        finally:
            consumer.close()
    sizes = [size for each in probes.values() for probe in each for size in probe.sizes]
    mean = statistics.fmean(sizes) if sizes else 1.0
    return Profile({p: [probe.stratum(mean) for probe in each] for p, each in probes.items()})


def _strata(start: int, end: int, partitions: int) -> list[_Probe]:
    offsets = end - start
    if offsets <= 0:
        return []
    count = max(1, min(PARTITION_PROBES, PROBES // partitions, offsets // PROBE_RECORDS))
    edges = [start + offsets * number // count for number in range(count + 1)]
    return [_Probe(first, last) for first, last in pairwise(edges)]


def _read(consumer: Consumer, topic: str, probes: Mapping[int, _Probe]) -> None:
    """One probe of each partition at once; what does not come in time is left out."""
    try:
        consumer.assign([TopicPartition(topic, p, probe.middle) for p, probe in probes.items()])
        deadline = time.monotonic() + PROBE_SECONDS
        while not all(each.done for each in probes.values()) and time.monotonic() < deadline:
            for message in consumer.consume(PROBE_RECORDS * len(probes), POLL_SECONDS):
                partition, offset, error = message.partition(), message.offset(), message.error()
                if partition is None or partition not in probes:
                    continue
                if error is not None:
                    probes[partition].done |= error.code() == KafkaError._PARTITION_EOF
                elif offset is not None and offset >= probes[partition].middle and not probes[partition].done:
                    probes[partition].take(offset, len(message.value() or b""))
    except KafkaException:
        return
