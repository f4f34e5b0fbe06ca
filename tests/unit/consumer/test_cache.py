"""The cache against a real Redis: what it finds, what it takes for nothing, and what it does without one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumer.cache import VectorCache, connect
from consumer.embed import Embedder
from consumer.queues import BoundedQueue, Closed
from consumer.records import EmbeddedWindow, Failure, SplitDocument, Window
from embedstream.errors import ConfigError
from embedstream.metrics import Metrics
from embedstream.settings import CacheSettings
from tests.hash_encoder import DIM, HashEncoder, vector_of
from tests.kafka import wait_until
from tests.redis_server import RedisServer
from tests.unit.consumer.items import a_document


class Counting(HashEncoder):
    """Counts what it encodes; fails on the id `poison`."""

    encoded = 0
    poison = -1

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        if any(self.poison in ids for ids in batch):
            raise RuntimeError("poison")
        self.encoded += len(batch)
        return super().encode(batch)


class Cached:
    """A cache with its own encoder and metrics, as a daemon has them."""

    def __init__(self, url: str, fingerprint: str = "hash", precision: str = "fp32", **settings: object):
        self.settings = CacheSettings.model_validate({"url": url, "timeout_seconds": 5, **settings})
        self.metrics = Metrics()
        self.encoder = Counting(fingerprint=fingerprint)
        self.encoder.info = replace(self.encoder.info, precision=precision)
        client = connect(self.settings)
        assert client is not None
        self.cache = VectorCache(client, self.settings, self.encoder.info, self.metrics)
        self._number = 0

    def window(self, *lengths: int, first: int = 0) -> Window:
        """A window of one document with passages of these lengths, all different."""
        self._number += 1
        document = a_document(lengths=lengths)
        passages = tuple(each._replace(token_ids=each.token_ids + first) for each in document.passages)
        return Window(self._number, (document._replace(passages=passages),), 0)

    def run(self, *windows: Window) -> list[NDArray[np.float32] | Failure]:
        """Encodes windows one after the other; returns all outcomes."""
        found: list[NDArray[np.float32] | Failure] = []
        for window in windows:
            self.cache.look_up(window)
            found += self._embedded(window).outcomes
        return found

    def run_ahead(self, *windows: Window) -> list[NDArray[np.float32] | Failure]:
        """The same, with all windows looked up before the first is encoded."""
        for window in windows:
            self.cache.look_up(window)
        return [outcome for window in windows for outcome in self._embedded(window).outcomes]

    def written(self) -> None:
        """Waits until nothing is being written."""
        self.cache._writer.submit(lambda: None).result()

    def count(self, result: str, of: str = "requests") -> float:
        name = f"embedstream_cache_{of}_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0.0

    def counts(self) -> dict[str, float]:
        results = ("hit", "recent", "miss", "invalid", "error", "skipped")
        return {result: count for result in results if (count := self.count(result))}

    def embedder(self, *windows: Window) -> tuple[Embedder, BoundedQueue[EmbeddedWindow]]:
        """An embedder that has these windows to do, and where they go."""
        waiting: BoundedQueue[Window] = BoundedQueue(100)
        done: BoundedQueue[EmbeddedWindow] = BoundedQueue(100)
        for window in windows:
            waiting.put(window)
        waiting.close()
        embedder = Embedder(
            waiting,
            done,
            self.encoder,
            self.metrics,
            stopping=lambda: False,
            moved=lambda: None,
            cache=self.cache,
        )
        return embedder, done

    def _embedded(self, window: Window) -> EmbeddedWindow:
        embedder, done = self.embedder(window)
        embedder.run()
        embedded = done.get(0)
        assert embedded is not None
        with pytest.raises(Closed):
            done.get(0)
        return embedded


class Drip:
    """Stands before a server and lets its answers through drop by drop, never silent for long."""

    DROP_BYTES, DROP_SECONDS = 16, 0.02

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.is_slow = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # An accept that is under way would hold on to the listener.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
                for pair in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, drips: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                size = self.DROP_BYTES if drips and self.is_slow else len(data)
                for start in range(0, len(data), size):
                    target.sendall(data[start : start + size])
                    if size < len(data):
                        time.sleep(self.DROP_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.client.flushall()
    return server


def expected(window: Window) -> list[NDArray[np.float32]]:
    return [
        vector_of(passage.token_ids)
        for item in window.items
        if isinstance(item, SplitDocument)
        for passage in item.passages
    ]


def same(found: Sequence[NDArray[np.float32] | Failure], wanted: Sequence[NDArray[np.float32]]) -> bool:
    return [each.tobytes() for each in found if not isinstance(each, Failure)] == [
        each.tobytes() for each in wanted
    ]


def test_what_one_daemon_encoded_another_finds_bit_for_bit(redis: RedisServer) -> None:
    first, second = Cached(redis.url), Cached(redis.url)
    window = first.window(4, 6, 5)
    assert same(first.run(window), expected(window))
    first.written()
    assert same(second.run(second.window(4, 6, 5)), expected(window))
    assert (first.encoder.encoded, second.encoder.encoded) == (3, 0)
    assert (first.counts(), second.counts()) == ({"miss": 3}, {"hit": 3})
    assert first.count("stored", "writes") == 3
    assert second.metrics.registry.get_sample_value("embedstream_tokens_total") == 0


def test_only_what_is_not_there_is_encoded_and_each_passage_gets_its_own_vector(redis: RedisServer) -> None:
    first, second = Cached(redis.url), Cached(redis.url)
    first.run(first.window(4, 6))
    first.written()
    window = second.window(4, 6, 5, 9)
    assert same(second.run(window), expected(window))
    assert second.encoder.encoded == 2
    assert second.counts() == {"hit": 2, "miss": 2}


def test_values_are_the_raw_floats_and_expire(redis: RedisServer) -> None:
    cached = Cached(redis.url, ttl="12h")
    window = cached.window(4)
    cached.run(window)
    cached.written()
    (key,) = redis.client.keys()
    assert redis.client.get(key) == expected(window)[0].astype("<f4").tobytes()
    assert 12 * 3600 - 60 < redis.client.ttl(key) <= 12 * 3600


def test_half_floats_are_delivered_as_they_are_read_back(redis: RedisServer) -> None:
    first, second = Cached(redis.url, dtype="fp16"), Cached(redis.url, dtype="fp16")
    window = first.window(4, 6, 5)
    encoded = first.run(window)
    first.written()
    found = second.run(second.window(4, 6, 5))
    assert second.encoder.encoded == 0
    rounded = [each.astype(np.float16).astype(np.float32) for each in expected(window)]
    assert not same(expected(window), rounded)
    assert same(encoded, rounded)
    assert same(found, rounded)
    assert {redis.client.strlen(key) for key in redis.client.scan_iter()} == {2 * DIM}


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "another"}, {"precision": "bf16"}, {"dtype": "fp16"}],
    ids=lambda o: next(iter(o)),
)
def test_another_model_precision_or_form_finds_nothing(redis: RedisServer, other: dict[str, str]) -> None:
    first = Cached(redis.url)
    first.run(first.window(4))
    first.written()
    second = Cached(redis.url, **other)
    second.run(second.window(4))
    assert second.counts() == {"miss": 1}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0" * (4 * DIM - 1),
        b"\0" * (4 * DIM + 4),
        b"\0" * (4 * DIM),
        np.full(DIM, np.nan, "<f4").tobytes(),
        np.full(DIM, np.inf, "<f4").tobytes(),
        np.full(DIM, 1e30, "<f4").tobytes(),
        np.full(DIM, 0.5, "<f4").tobytes(),
    ],
)
def test_a_value_that_is_no_vector_is_a_miss_counted_and_overwritten(
    redis: RedisServer, value: bytes
) -> None:
    first = Cached(redis.url)
    window = first.window(4)
    first.run(window)
    first.written()
    (key,) = redis.client.keys()
    redis.client.set(key, value)
    second = Cached(redis.url)
    assert same(second.run(second.window(4)), expected(window))
    assert second.counts() == {"invalid": 1}
    second.written()
    assert redis.client.get(key) == expected(window)[0].tobytes()


def test_a_value_of_another_type_is_a_miss_and_overwritten(redis: RedisServer) -> None:
    first = Cached(redis.url)
    window = first.window(4)
    first.run(window)
    first.written()
    (key,) = redis.client.keys()
    redis.client.delete(key)
    redis.client.lpush(key, "a", "b")
    second = Cached(redis.url)
    assert same(second.run(second.window(4)), expected(window))
    second.written()
    assert redis.client.get(key) == expected(window)[0].tobytes()


def test_what_fails_is_not_kept(redis: RedisServer) -> None:
    cached = Cached(redis.url)
    cached.encoder.poison = 2  # the ids of the second passage
    first, second, third = cached.run(cached.window(4, 6, 5))
    assert isinstance(second, Failure)
    assert not isinstance(first, Failure)
    assert not isinstance(third, Failure)
    cached.written()
    assert redis.client.dbsize() == 2


def test_a_window_is_one_mget(redis: RedisServer) -> None:
    cached = Cached(redis.url)
    cached.run(cached.window(4, 6, 5), cached.window(7, 8))
    cached.written()
    stats = redis.client.info("commandstats")
    redis.client.config_resetstat()
    again = Cached(redis.url)
    again.run(again.window(4, 6, 5), again.window(7, 8), again.window(3))
    stats = redis.client.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 3


def test_windows_that_were_looked_up_before_their_neighbours_were_encoded_find_them(
    redis: RedisServer,
) -> None:
    cached = Cached(redis.url)
    windows = [cached.window(4, 6, 5) for _ in range(4)]
    assert same(cached.run_ahead(*windows), expected(windows[0]) * 4)
    assert cached.encoder.encoded == 3
    assert cached.counts() == {"miss": 3, "recent": 9}


def test_a_frozen_redis_costs_one_time_out_and_then_nothing(redis: RedisServer) -> None:
    cached = Cached(redis.url, timeout_seconds=0.1)
    cached.run(cached.window(3))
    cached.written()
    redis.pause()
    try:
        windows = [cached.window(4, first=number) for number in range(50)]
        started = time.monotonic()
        found = cached.run(*windows)
        seconds = time.monotonic() - started
    finally:
        redis.resume()
    assert same(found, [vector for window in windows for vector in expected(window)])
    # Without the breaker it would be 50 time-outs; with it one, and one each for trials after 1, 3, ... s.
    assert seconds < len(windows) * cached.settings.timeout_seconds
    assert cached.count("error") >= 1
    assert cached.count("skipped") >= 40
    wait_until(lambda: cached.run(cached.window(3)) and cached.count("hit"), 20, "it was not tried again")


def test_an_answer_that_comes_drop_by_drop_is_not_waited_for(redis: RedisServer) -> None:
    lengths = tuple(range(3, 63))
    first = Cached(redis.url)
    first.run(first.window(*lengths))
    first.written()
    with Drip(redis.port) as drip:
        second = Cached(drip.url, timeout_seconds=0.5)
        second.run(second.window(3))
        assert second.counts() == {"hit": 1}
        # Sixty vectors come in some three seconds, none of which is silent for as long as a socket waits.
        drip.is_slow = True
        window = second.window(*lengths)
        assert same(second.run(window), expected(window))
        assert second.counts() == {"hit": 1, "error": 60}
        waited = second.metrics.registry.get_sample_value(
            "embedstream_stage_duration_seconds_sum", {"stage": "recall"}
        )
        assert waited is not None
        assert waited < 2


def test_without_a_redis_everything_is_encoded_and_counted(redis: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as gone:
        url = gone.url
    cached = Cached(url)
    windows = [cached.window(4, first=number) for number in range(20)]
    assert same(cached.run(*windows), [vector for window in windows for vector in expected(window)])
    cached.written()
    assert cached.count("error") >= 1
    assert cached.count("error") + cached.count("skipped") == 20
    assert cached.count("error", "writes") + cached.count("skipped", "writes") == 20


def test_a_full_redis_still_answers_and_what_it_refuses_is_counted(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxmemory-policy", "noeviction") as full:
        cached = Cached(full.url)
        cached.run(cached.window(4))
        cached.written()
        full.client.config_set("maxmemory", 1)
        window = cached.window(4, 6)
        assert same(cached.run(window), expected(window))
        cached.written()
        assert cached.count("error", "writes") == 1
        other = Cached(full.url)
        assert same(other.run(other.window(4, 6)), expected(window))
        assert other.counts() == {"hit": 1, "miss": 1}


def test_what_redis_keeps_beside_what_it_refuses_is_counted_as_kept(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as picky:
        first = Cached(picky.url)
        first.run(first.window(4))
        first.written()
        key = bytes(next(picky.client.scan_iter()))
        only = b"*" + b"".join(b"\\" + bytes([byte]) for byte in key[-8:])
        picky.client.acl_setuser("default", enabled=True, nopass=True, reset_keys=True, keys=[only])
        second = Cached(picky.url)
        second.run(second.window(4, 6, 5))
        second.written()
        assert (second.count("stored", "writes"), second.count("error", "writes")) == (1, 2)


def test_a_redis_that_wants_a_password_is_as_good_as_none_and_the_password_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path) as locked:
        locked.client.config_set("requirepass", "right")
        cached = Cached(locked.url.replace("://", "://:hunter2@"))
        window = cached.window(4)
        assert same(cached.run(window), expected(window))
        cached.written()
        assert cached.counts() == {"error": 1}
        told = capsys.readouterr()
        assert "cache_fails" in told.out + told.err
        assert "hunter2" not in told.out + told.err
        right = Cached(locked.url.replace("://", "://:right@"))
        right.run(right.window(4))
        assert right.counts() == {"miss": 1}


def test_it_speaks_tls_and_only_to_a_server_that_it_trusts(tmp_path: Path) -> None:
    with RedisServer(tmp_path, tls=True) as server:
        first, second = Cached(server.url), Cached(server.url)
        first.run(first.window(4))
        first.written()
        second.run(second.window(4))
        assert second.counts() == {"hit": 1}
        stranger = Cached(server.url.partition("?")[0])
        stranger.run(stranger.window(4))
        assert stranger.counts() == {"error": 1}


def test_the_rate_is_not_that_of_the_few_passages_that_were_not_found(redis: RedisServer) -> None:
    first, second = Cached(redis.url), Cached(redis.url)
    first.run(first.window(*range(3, 13)))
    first.written()
    mostly_known = second.window(*range(3, 14))
    second.cache.look_up(mostly_known)
    embedder, _ = second.embedder(mostly_known)
    embedder.run()
    assert second.encoder.encoded == 1
    assert embedder.tokens_per_second() is None
    mostly_new = second.window(4, 6, 5, first=500)
    second.cache.look_up(mostly_new)
    embedder, _ = second.embedder(mostly_new)
    embedder.run()
    assert embedder.tokens_per_second() is not None


def test_closing_waits_for_what_is_written_but_not_for_ever(redis: RedisServer) -> None:
    cached = Cached(redis.url)
    cached.run(cached.window(4))
    cached.cache.close(5)
    assert redis.client.dbsize() == 1
    redis.pause()
    try:
        slow = Cached(redis.url)
        slow.cache._write({b"key": np.ones(DIM, np.float32)})
        started = time.monotonic()
        slow.cache.close(0.1)
        assert time.monotonic() - started < slow.settings.timeout_seconds
    finally:
        redis.resume()


def test_what_waits_to_be_written_has_its_limit(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.cache.WAITING_BYTES", 3 * 4 * DIM)
    cached = Cached(redis.url)
    redis.pause()
    try:
        for number in range(10):
            cached.cache.remember([bytes([number])], [np.ones(DIM, np.float32)])
        assert cached.count("skipped", "writes") == 7
    finally:
        redis.resume()
    cached.cache.close(10)
    # A write that an earlier test gave up on may still arrive.
    assert sum(redis.client.exists(bytes([number])) for number in range(10)) == 3


@given(st.lists(st.binary(max_size=8 * DIM) | st.none(), max_size=8))
def test_whatever_redis_returns_only_unit_vectors_come_of_it(values: list[bytes | None]) -> None:
    cached = ALONE
    answer = cached._read(values)
    assert len(answer.vectors) == len(values)
    for vector in answer.vectors:
        if vector is not None:
            assert abs(float(np.linalg.norm(vector)) - 1) < 0.02
    present = sum(value is not None for value in values)
    assert answer.invalid == present - sum(vector is not None for vector in answer.vectors)


@pytest.mark.parametrize("query", ["?hunter2=1", "?socket_timeout=hunter2"])
def test_a_parameter_that_makes_no_sense_is_one_line_without_the_url(query: str) -> None:
    settings = CacheSettings(url=f"redis://127.0.0.1:1/0{query}")
    with pytest.raises(ConfigError, match=r"cache\.url") as error:
        connect(settings)
    assert "hunter2" not in str(error.value)


def test_without_a_url_there_is_no_cache() -> None:
    assert connect(CacheSettings()) is None


ALONE = Cached("redis://127.0.0.1:1/0", timeout_seconds=0.01).cache
