"""Vectors that were computed before, kept in Redis: what is found there is not encoded again.

A vector is decided by the model (its fingerprint), the precision it was computed in, and the token ids of the
passage: these are the key. The value is the vector itself, little-endian floats and nothing else.

    cache.look_up(window)                # when a window is made: one MGET, answered while others are encoded
    recalled = cache.recall(window)      # when it is its turn
    outcomes = cache.remember(keys, encoded)    # one pipeline of SETs, on a thread of its own

The pipeline never depends on it. An answer that is not there in time is no answer; a Redis that fails is left
alone for a while (`consumer.breaker`); what can't be written is not kept.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consumer.breaker import Breaker
from consumer.encoder import ModelInfo
from consumer.records import Failure, Window
from embedstream.errors import ConfigError
from embedstream.metrics import Metrics
from embedstream.settings import CacheSettings

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["Recalled", "VectorCache", "connect"]

# Windows are looked up while those before them are still encoded: what these hold is found here. One is
# encoded, one waits for it, one waits to be queued; one more, since writing takes time too.
RECENT_WINDOWS = 4
# What waits to be written is held in memory; more is left out.
WAITING_BYTES = 64 * 1024 * 1024
# How far the length of a vector may be from 1: rounding to fp16 takes it 0.0005 away at most.
UNIT_TOLERANCE = 0.01

REQUEST_RESULTS = ("hit", "recent", "miss", "invalid", "error", "skipped")
WRITE_RESULTS = ("stored", "error", "skipped")

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the cache knows of a window's distinct passages: the key of each, and its vector or None."""

    keys: tuple[bytes, ...]
    vectors: tuple[Vector | None, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """For each key a vector or None, and how many values were no vectors; or why there is no answer."""

    vectors: list[Vector | None]
    invalid: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    keys: tuple[bytes, ...]
    answer: Future[_Answer] | None


def connect(settings: CacheSettings) -> Redis | None:
    """A client of the Redis that the settings name, not connected yet; None where they name none.

    Raises:
        ConfigError: The extra is missing, or the URL has parameters that make no sense.
    """
    if settings.url is None:
        return None
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ConfigError("cache.url needs the extra `redis`", "pip install 'embedstream[redis]'") from None
    try:
        client = Redis.from_url(
            settings.url,
            protocol=2,
            socket_timeout=settings.timeout_seconds,
            socket_connect_timeout=settings.timeout_seconds,
            # The breaker decides when to try again.
            retry=Retry(NoBackoff(), 0),
        )
        client.connection_pool.make_connection()
    except (TypeError, ValueError):
        # What redis-py says of it may repeat the password.
        told = "cache.url has a parameter that redis-py does not know"
        raise ConfigError(told, "write redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss:// with TLS") from None
    return client


class VectorCache:
    """The cache of one daemon and its model.

    `look_up` is called by the thread that makes windows, `recall` and `remember` by the one that encodes.
    """

    def __init__(self, client: Redis, settings: CacheSettings, model: ModelInfo, metrics: Metrics) -> None:
        """Begins to connect.

        Args:
            client: As `connect` returns it.
            settings: How values are kept.
            model: Whose vectors they are.
            metrics: Counts what was found and kept.
        """
        self._redis = client
        self._settings = settings
        self._dim = model.dim
        self._dtype = np.dtype("<f2" if settings.dtype == "fp16" else "<f4")
        parts = ("embedstream", model.fingerprint, model.precision, settings.dtype, "")
        self._prefix = ":".join(parts).encode()
        self._metrics = metrics
        for counter, results in (
            (metrics.cache_requests_total, REQUEST_RESULTS),
            (metrics.cache_writes_total, WRITE_RESULTS),
        ):
            for result in results:
                counter.labels(result=result)
        self._asked: dict[int, _Asked] = {}
        self._recent: deque[Mapping[bytes, Vector]] = deque(maxlen=RECENT_WINDOWS)
        self._reading, self._writing = Breaker("read"), Breaker("write")
        self._reader = ThreadPoolExecutor(1, "cache-read")
        self._writer = ThreadPoolExecutor(1, "cache-write")
        self._waiting = 0  # bytes
        self._written = threading.Condition()
        # Connected before the first window, which has no more time than the others.
        self._reader.submit(client.ping)

    def look_up(self, window: Window) -> None:
        """Asks for the vectors of a window's distinct passages, and does not wait."""
        distinct, _ = window.distinct
        if distinct:
            keys = tuple(self._prefix + _digest(ids) for ids in distinct)
            answer = self._reader.submit(self._get, keys) if self._reading.allows() else None
            self._asked[window.number] = _Asked(keys, answer)

    def recall(self, window: Window) -> Recalled:
        """What is known of a window that was looked up; waits at most `cache.timeout_seconds`."""
        asked = self._asked.pop(window.number, None)
        if asked is None:
            return Recalled((), ())
        with self._metrics.stage_duration_seconds.labels(stage="recall").time():
            answer = self._answer(asked)
        found = sum(vector is not None for vector in answer.vectors)
        vectors, recent = list(answer.vectors), 0
        for place, key in enumerate(asked.keys):
            if vectors[place] is None:
                vectors[place] = next((each[key] for each in self._recent if key in each), None)
                recent += vectors[place] is not None
        self._count(asked, answer, found, recent)
        return Recalled(asked.keys, tuple(vectors))

    def remember(
        self, keys: Sequence[bytes], outcomes: Sequence[Vector | Failure]
    ) -> Sequence[Vector | Failure]:
        """Keeps what was encoded, and does not wait for it.

        Args:
            keys: As `recall` gave them for these passages.
            outcomes: float32 of shape (dim,) each, or why there is none.

        Returns:
            The outcomes to deliver: in fp16 they are what will be read back, so that a passage has the same
            vector whether it was found or encoded.
        """
        if self._settings.dtype == "fp16":
            outcomes = [
                each if isinstance(each, Failure) else each.astype(self._dtype).astype(np.float32)
                for each in outcomes
            ]
        kept = {key: each for key, each in zip(keys, outcomes, strict=True) if not isinstance(each, Failure)}
        if kept:
            self._recent.append(kept)
            self._write(kept)
        return outcomes

    def close(self, seconds: float) -> None:
        """Waits for what is being written, but no longer than this."""
        with self._written:
            self._written.wait_for(lambda: not self._waiting, seconds)

    def _answer(self, asked: _Asked) -> _Answer:
        nothing: list[Vector | None] = [None] * len(asked.keys)
        if asked.answer is None:
            return _Answer(nothing, error="skipped")
        try:
            answer = asked.answer.result(self._settings.timeout_seconds)
        except TimeoutError:
            asked.answer.cancel()
            answer = _Answer(nothing, error=f"no answer in {self._settings.timeout_seconds} s")
        if answer.error:
            self._reading.failed(answer.error)
            return answer
        self._reading.succeeded()
        return answer

    def _count(self, asked: _Asked, answer: _Answer, found: int, recent: int) -> None:
        requests = self._metrics.cache_requests_total
        requests.labels(result="hit").inc(found)
        requests.labels(result="recent").inc(recent)
        # An invalid value may stand for a passage that was found among the recent ones.
        unknown = len(asked.keys) - found - recent
        if asked.answer is None:
            requests.labels(result="skipped").inc(unknown)
        elif answer.error:
            requests.labels(result="error").inc(unknown)
        else:
            requests.labels(result="invalid").inc(min(answer.invalid, unknown))
            requests.labels(result="miss").inc(max(0, unknown - answer.invalid))

    def _get(self, keys: Sequence[bytes]) -> _Answer:
        try:
            values: Any = self._redis.mget(keys)
            return self._read(values)
        # Whatever a client raises: the pipeline goes on without it.
        except Exception as error:
            return _Answer([None] * len(keys), error=_told(error))

    def _read(self, values: Sequence[bytes | None]) -> _Answer:
        """The vectors that the values hold: of the right length, finite, and of length 1."""
        size = self._dim * self._dtype.itemsize
        vectors: list[Vector | None] = [None] * len(values)
        places = [place for place, value in enumerate(values) if value is not None and len(value) == size]
        present = sum(value is not None for value in values)
        data = b"".join(values[place] or b"" for place in places)
        matrix = np.frombuffer(data, self._dtype).reshape(len(places), self._dim).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt((matrix * matrix).sum(axis=1))
        good = np.abs(lengths - 1) <= UNIT_TOLERANCE
        for row in np.flatnonzero(good).tolist():
            vectors[places[row]] = matrix[row]
        return _Answer(vectors, invalid=present - int(good.sum()))

    def _write(self, kept: Mapping[bytes, Vector]) -> None:
        size = len(kept) * self._dim * self._dtype.itemsize
        with self._written:
            has_room = not self._waiting or self._waiting + size <= WAITING_BYTES
            is_taken = has_room and self._writing.allows()
            self._waiting += size if is_taken else 0
        if is_taken:
            self._writer.submit(self._set, kept, size)
        else:
            self._metrics.cache_writes_total.labels(result="skipped").inc(len(kept))

    def _set(self, kept: Mapping[bytes, Vector], size: int) -> None:
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for key, vector in kept.items():
                pipeline.set(key, vector.astype(self._dtype).tobytes(), ex=self._settings.ttl)
            replies = pipeline.execute(raise_on_error=False)
            refused = [reply for reply in replies if isinstance(reply, Exception)]
            stored, why = len(kept) - len(refused), _told(refused[0]) if refused else ""
        except Exception as error:
            stored, why = 0, _told(error)
        with self._written:
            self._waiting -= size
            self._written.notify_all()
        writes = self._metrics.cache_writes_total
        writes.labels(result="stored").inc(stored)
        writes.labels(result="error").inc(len(kept) - stored)
        if why:
            self._writing.failed(why)
        else:
            self._writing.succeeded()


def _digest(ids: NDArray[np.int32]) -> bytes:
    """20 bytes: two passages that share them are less likely than a fault of the memory."""
    return hashlib.blake2b(ids.astype("<i4", copy=False).tobytes(), digest_size=20).digest()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
