"""The consumer daemon: wires the stages together, starts their threads, and ends them in order.

    poll -> prepare -> embed -> deliver

Each is a thread and each arrow a bounded queue; a stage that is done closes the queue behind it, so that the
next one finishes what is in it and ends as well. The main thread only waits, so that a signal finds it awake
whatever hangs.

Asked to end, the stages have half of `consumer.stop_seconds` to deliver what is encoded, and leaving the
group has the rest; then the watchdog ends the process. What an encoder still computes is left behind: it is
read again. A window that could not be delivered makes the exit code 75.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient

from consumer.admission import admit
from consumer.cache import VectorCache, connect
from consumer.clients import REVOKE_SECONDS, make_delivery, make_poller
from consumer.drained import Drained
from consumer.encoder import Encoder, ModelInfo
from consumer.encoder_thread import EncoderThread
from consumer.liveness import Liveness
from consumer.ownership import Ownership
from consumer.poll import Poller
from consumer.queues import BoundedQueue
from consumer.records import EmbeddedWindow, Polled, Window
from consumer.reporting import Reporting
from consumer.split import SPLITTER_VERSION
from consumer.stages import make_deliverer, make_embedder, make_preparer
from consumer.topics import Topics
from consumer.unowned import Unowned, shares_of, watch
from embedstream.errors import EmbedstreamError, TryAgainError
from embedstream.garbage import rare_collections
from embedstream.kafka import make_admin
from embedstream.logs import get_logger
from embedstream.metrics import Metrics
from embedstream.registry import record_header
from embedstream.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["Daemon"]

# One window being encoded, one ready for the encoder; one being delivered, one ready for delivery.
WINDOWS_AHEAD = 1
# A revoke that takes longer looks like partitions that nobody has; more than it should ever take.
LEAST_PATIENCE_SECONDS = REVOKE_SECONDS + 3.0
DRAINED_CHECK_SECONDS = 0.5
# How long the end waits for the money that was spent to be written down.
WRITE_DOWN_SECONDS = 6.0
MAIN_LOOK_SECONDS = 0.2
STOP_MEND = "start the daemon again: it is read again; consumer.stop_seconds gives it more time"
# What the cache has for its last writes, once all is delivered.
CACHE_SECONDS = 1.0

_log = get_logger("daemon")


class Daemon:
    """One consumer of the group. `run` blocks; `stop` may be called from a signal handler or a thread."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Encoder],
        metrics: Metrics | None = None,
        prepare: Callable[[ModelInfo], None] | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            settings: all of them.
            load: loads the model; called after the topics were checked, since it takes long.
            metrics: to share a registry; a new one otherwise.
            prepare: called once the model is loaded, before anything else: makes the topics that a daemon
                needs and sets where its group begins. Then the topics are checked after it.
        """
        self._settings = settings
        self._load = load
        self._prepare = prepare
        self.metrics = metrics or Metrics()
        self.liveness = Liveness(settings.consumer)
        for name, clock in self.liveness.clocks.items():
            self.metrics.clock_age_seconds.labels(clock=name).set_function(clock.seconds)
        self.ending = threading.Event()
        self._ending_since = 0.0
        self._failure: BaseException | None = None
        self._redis: Redis | None = None
        self._reason: EmbedstreamError | None = None
        self._is_starting = True
        self._delivered = False

    @property
    def exit_code(self) -> int:
        """What the process ends with if it can't end by itself from here on."""
        if self._failure is not None:
            return getattr(self._failure, "exit_code", EmbedstreamError.exit_code)
        if not self._delivered:
            return TryAgainError.exit_code
        return 0 if self._reason is None else self._reason.exit_code

    def stop(self) -> None:
        """Asks the daemon to deliver what is encoded, leave the group and return."""
        if not self.ending.is_set():
            self._ending_since = time.monotonic()
            self.ending.set()
            self.liveness.leave()

    def run(self) -> None:
        """Consumes until stopped, or drained if `consumer.until_drained` is set.

        Raises:
            EmbedstreamError: what ends the daemon otherwise; its exit code says whether to start again.
        """
        worker = self._start("poll", self._work)
        # As long as it is starting there is nothing to deliver and no group to leave.
        while worker.is_alive() and not (self._is_ending() and self._is_starting):
            worker.join(MAIN_LOOK_SECONDS)
        for error in (self._failure, self._reason):
            if error is not None:
                raise error

    def _stop_because(self, reason: EmbedstreamError) -> None:
        """Stops as if asked to, and says why once all is delivered."""
        self._reason = self._reason or reason
        self.stop()

    def _work(self) -> None:
        reporting = Reporting(self._settings, self.metrics, self.ending, self._stop_because)
        reporting.start()
        try:
            self._load_and_consume()
        except BaseException as error:
            # Before the end is told to anyone: what waits for it asks for the failure.
            self._fail(error)
        finally:
            self._is_starting = False
            self.stop()
            reporting.join(WRITE_DOWN_SECONDS)

    def _load_and_consume(self) -> None:
        admin = make_admin(self._settings.kafka)
        topics = None if self._prepare else self._find_topics(admin)
        self._redis = connect(self._settings.cache)
        encoder_thread = EncoderThread(self._load, self._fail)
        try:
            self._admit_and_consume(admin, topics, encoder_thread)
        finally:
            encoder_thread.end()

    def _admit_and_consume(
        self, admin: AdminClient, topics: Topics | None, encoder_thread: EncoderThread
    ) -> None:
        encoder = encoder_thread.encoder()
        self._tell(encoder)
        if self._prepare is not None:
            self._prepare(encoder.info)
        topics = topics or self._find_topics(admin)
        chosen = admit(admin, self._settings, topics, encoder.info.fingerprint, encoder.info.earlier)
        group, drained = self._settings.consumer.group, None
        if self._settings.consumer.until_drained:
            drained = Drained(admin, self._settings.kafka, group)
            if drained.is_reached():
                _log.info("drained", group=group)
                return
        with rare_collections(freeze=True):
            self._consume(drained, topics, encoder, encoder_thread, chosen)

    def _find_topics(self, admin: AdminClient) -> Topics:
        topics = Topics(admin, self._settings.kafka)
        topics.embeddings_header = record_header(
            self._settings.schema_registry, "embedding", topics.layout.embeddings_topic
        )
        return topics

    def _tell(self, encoder: Encoder) -> None:
        """The model and how it runs, once in the log and in the metrics."""
        info = encoder.info
        told = {
            "model": info.name,
            "fingerprint": info.fingerprint,
            "splitter": SPLITTER_VERSION,
            "dim": info.dim,
            "max_tokens": info.max_tokens,
            "precision": info.precision,
            "attention": info.attention,
            "layout": info.layout,
            "compiled": info.compiled,
            "refused": info.refused,
            "device": info.device,
            "token_budget": encoder.token_budget,
        }
        self.metrics.model_info.info({name: str(value) for name, value in told.items()})
        _log.info("model_loaded", **told)

    def _consume(
        self,
        drained: Drained | None,
        topics: Topics,
        encoder: Encoder,
        encoder_thread: EncoderThread,
        chosen: Mapping[int, int],
    ) -> None:
        settings = self._settings.consumer
        inputs: BoundedQueue[Polled] = BoundedQueue(settings.queue_bytes)
        windows: BoundedQueue[Window] = BoundedQueue(WINDOWS_AHEAD)
        embedded: BoundedQueue[EmbeddedWindow] = BoundedQueue(WINDOWS_AHEAD)
        ownership = Ownership()
        poller = make_poller(self._settings, inputs, ownership, self.metrics, self.liveness.told)
        progressed = self.liveness.progressed
        cache = None
        if self._redis is not None:
            cache = VectorCache(self._redis, self._settings.cache, encoder.info, self.metrics)
        share = (self._settings, self.metrics, encoder)
        embedder = make_embedder(
            *share, (windows, embedded), cache, stopping=self._is_ending, moved=progressed
        )
        preparer = make_preparer(*share, (inputs, windows), ownership, embedder, cache, moved=progressed)
        delivery = make_delivery(
            self._settings,
            poller,
            ownership,
            topics.layout,
            encoder.info.fingerprint,
            chosen,
            stopping=self._is_ending,
        )
        deliverer = make_deliverer(
            *share, embedded, delivery, ownership, topics, poller, giving_up=self._is_late, moved=progressed
        )
        poller.more_encoded = lambda: deliverer.has_work and self._failure is None
        delivery.prepare()
        self._is_starting = False
        if self._is_ending():
            return
        threads = [
            self._start("prepare", preparer.run),
            encoder_thread.work(embedder.run),
            self._start("deliver", deliverer.run),
        ]
        self._start_watching(drained, poller, topics)

        def idle() -> bool:
            return embedder.is_idle() and not (len(inputs) or preparer.is_busy or deliverer.has_work)

        self._poll(poller, inputs, threads, idle)
        if deliverer.has_work:
            self._fail(TryAgainError("what is encoded could not be delivered in time", STOP_MEND))
        self._delivered = True
        poller.leave()
        if cache is not None:
            cache.close(CACHE_SECONDS)
        if self._failure is None:
            _log.info("left", group=settings.group)

    def _poll(
        self,
        poller: Poller,
        inputs: BoundedQueue[Polled],
        stages: Sequence[threading.Thread],
        idle: Callable[[], bool],
    ) -> None:
        """Polls until the stages have ended, or were given up."""

        def done() -> bool:
            self.liveness.polled(idle=idle())
            if self._is_ending():
                # What was read but not encoded is left: it is read again after the committed offset.
                inputs.close(discard=True)
            alive = [each.name for each in stages if each.is_alive()]
            if alive and self._is_late() and self._failure is None:
                _log.warning("stages_left_behind", stages=alive)
            return not alive or self._is_late()

        self.liveness.begin()
        poller.subscribe()
        group, instance = self._settings.consumer.group, self._settings.consumer.instance_id
        _log.info("consuming", group=group, instance_id=instance)
        try:
            poller.run(done, reading=lambda: not self._is_ending())
        except EmbedstreamError as error:
            self._fail(error)
        inputs.close(discard=True)

    def _start_watching(self, drained: Drained | None, poller: Poller, topics: Topics) -> None:
        if drained is not None:
            self._start("drained", lambda: self._watch(drained))
        settings = self._settings.consumer
        if settings.group_protocol == "classic" and settings.delivery == "exactly-once":
            self._start("unowned", partial(self._watch_unowned, poller, topics))

    def _watch(self, drained: Drained) -> None:
        while not self.ending.wait(DRAINED_CHECK_SECONDS):
            if drained.is_reached():
                _log.info("drained", group=self._settings.consumer.group)
                self.stop()

    def _watch_unowned(self, poller: Poller, topics: Topics) -> None:
        settings, topic = self._settings.consumer, self._settings.kafka.documents_topic
        patience = max(LEAST_PATIENCE_SECONDS, settings.session_timeout_seconds / 2)
        watch(
            Unowned(patience),
            poller.member_id,
            partial(shares_of, make_admin(self._settings.kafka), settings.group, topic),
            lambda: range(topics.documents_partitions),
            poller.join_again,
            ending=self.ending,
        )

    def _is_ending(self) -> bool:
        return self.ending.is_set()

    def _is_late(self) -> bool:
        """Whether the stages have had their time to end."""
        late = time.monotonic() - self._ending_since > self._settings.consumer.stop_seconds / 2
        return self._failure is not None or (self._is_ending() and late)

    def _start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                self._fail(error)

        # A daemon thread: one that hangs in a client must not keep a failed process alive.
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.stop()
