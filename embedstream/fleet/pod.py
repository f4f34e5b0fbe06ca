"""A rented pod's first process: runs the daemon, and ends the pod when there is nothing left to pay for.

    embedstream pod --model /models/bge-large       # flags are those of `consume`

A container that exits is started again by RunPod, so it is no end: when the job is drained, the budget or the
deadline is reached, or Kafka is out of reach for too long, the daemon delivers and leaves, the pod is deleted
through the API, and this process sleeps until it is killed with the pod. The daemon is a process of its own,
so that one that crashes or hangs can't keep the pod alive.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from embedstream.broker import ends_with_parent
from embedstream.errors import (
    BudgetUsedUpError,
    ConfigError,
    EmbedstreamError,
    FencedError,
    ServiceUnavailableError,
    TooManyDeadLettersError,
    UsageError,
)
from embedstream.fleet.client import RunPod
from embedstream.kafka import make_admin, topics_answer
from embedstream.logs import get_logger
from embedstream.settings import Settings

__all__ = ["CONSUME", "run_pod"]

CONSUME = (sys.executable, "-m", "embedstream")
"""The program that is given `consume` and the flags."""

# Exit codes of the daemon after which starting it again would end the same way.
FINAL = {
    0: "drained",
    UsageError.exit_code: "its command line is wrong",
    BudgetUsedUpError.exit_code: "the budget is used up",
    TooManyDeadLettersError.exit_code: "too many dead letters",
    FencedError.exit_code: "another pod has taken its place",
    ConfigError.exit_code: "a setting is wrong",
}
LOOK_SECONDS = 0.2
PROBE_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# A daemon that ran for so long did not fail at its start, nor at its first documents.
GOOD_RUN_SECONDS = 600.0
MOST_BAD_STARTS = 10
# Between two attempts to end a pod that the API does not let end: it costs as long as it lives.
DELETE_AGAIN_SECONDS = 300.0
KILL_SECONDS = 60.0

_log = get_logger("pod")


class _Stop(Exception):
    """A signal asked this process to end; the pod itself is being ended by whoever sent it."""


def run_pod(settings: Settings, flags: Sequence[str], config: Path | None = None) -> int:
    """Runs the daemon until there is a reason to end the pod, and ends it.

    Args:
        settings: What says when to end; the daemon reads its own from the environment and the flags.
        flags: Of `consume`.
        config: The settings file that was named, which the daemon reads too.

    Returns:
        The exit code, after a signal, or where there is no pod to end.
    """
    stopping = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopping.set())
    try:
        before = () if config is None else ("--config", str(config))
        reason, code = _work(settings, [*CONSUME, *before, "consume", "--until-drained", *flags], stopping)
    except _Stop:
        _log.info("pod_stopped")
        return 0
    _log.info("pod_ends", reason=reason, exit_code=code)
    pod_id, key = os.environ.get("RUNPOD_POD_ID"), os.environ.get("RUNPOD_API_KEY")
    if not pod_id or not key:
        _log.warning("no_pod", why="RUNPOD_POD_ID and RUNPOD_API_KEY are not both set: this is no RunPod pod")
        return code
    _delete(pod_id, key, settings.fleet.api_url, stopping)
    # The container must not exit before the pod is gone: it would be started again.
    stopping.wait()
    return 0


def _work(settings: Settings, command: Sequence[str], stopping: threading.Event) -> tuple[str, int]:
    """Runs the daemon, again and again if need be; returns why the pod is to end, and the last exit code."""
    reach = _Reach(settings)
    pause, bad_starts, code = FIRST_PAUSE_SECONDS, 0, 0
    unreachable: float | None = None
    while True:
        reason = _over(settings, reach)
        if reason is not None:
            return reason, code
        began = time.monotonic()
        code, reason = _run_once(settings, command, stopping, reach)
        if stopping.is_set():
            raise _Stop
        if reason is not None:
            return reason, code
        if code in FINAL:
            return FINAL[code], code
        if time.monotonic() - began > GOOD_RUN_SECONDS:
            pause, bad_starts, unreachable = FIRST_PAUSE_SECONDS, 0, None
        if code == ServiceUnavailableError.exit_code:
            # Judged by the clock, not by how often a daemon was started; it need not be Kafka.
            unreachable = unreachable or time.monotonic()
            if time.monotonic() - unreachable > settings.pod.kafka_seconds:
                seconds = f"{settings.pod.kafka_seconds:g}"
                return f"a service that the daemon needs has not answered for {seconds} s", code
        else:
            bad_starts, unreachable = bad_starts + 1, None
        if bad_starts >= MOST_BAD_STARTS:
            return f"the daemon failed {bad_starts} times in a row", code
        _log.warning("daemon_started_again", exit_code=code, seconds=pause)
        _wait(settings, reach, stopping, pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _run_once(
    settings: Settings, command: Sequence[str], stopping: threading.Event, reach: _Reach
) -> tuple[int, str | None]:
    """One daemon from start to end; returns its exit code, and why it was asked to end, if it was."""
    # It ends with this process: no daemon is left without one that ends the pod.
    daemon = subprocess.Popen(ends_with_parent(command, signal.SIGTERM), stdin=subprocess.DEVNULL)
    reason: str | None = None
    while daemon.poll() is None:
        reason = _over(settings, reach)
        if reason is not None or stopping.is_set():
            return _end(daemon, settings.consumer.stop_seconds), reason
        stopping.wait(LOOK_SECONDS)
    return daemon.returncode, None


def _end(daemon: subprocess.Popen[bytes], seconds: float) -> int:
    """Asks the daemon to deliver and leave; kills it if it has not after its own time and some more."""
    daemon.terminate()
    try:
        return daemon.wait(seconds + KILL_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


def _over(settings: Settings, reach: _Reach) -> str | None:
    """Why the pod is to end now; None to go on."""
    until = settings.pod.deadline
    if until is not None and datetime.now(UTC) >= until:
        return "its deadline, or its share of the budget, is reached"
    if reach.seconds_without > settings.pod.kafka_seconds:
        return f"no Kafka broker has answered for {settings.pod.kafka_seconds:g} s"
    return None


def _wait(settings: Settings, reach: _Reach, stopping: threading.Event, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and _over(settings, reach) is None:
        if stopping.wait(LOOK_SECONDS):
            raise _Stop


class _Reach:
    """Asks Kafka now and then, with a client of its own: a daemon that waits for it says nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answered = time.monotonic()
        threading.Thread(target=self._probe, name="probe", daemon=True).start()

    @property
    def seconds_without(self) -> float:
        return time.monotonic() - self._answered

    def _probe(self) -> None:
        try:
            admin = make_admin(self._settings.kafka)
        except EmbedstreamError as error:
            _log.warning("probe_failed", why=str(error))
            return
        pause = min(PROBE_SECONDS, self._settings.pod.kafka_seconds / 4)
        while True:
            if topics_answer(admin):
                self._answered = time.monotonic()
            time.sleep(pause)


def _delete(pod_id: str, key: str, url: str, stopping: threading.Event) -> None:
    """Deletes the own pod: one request, repeated only where it was not granted."""

    def pause(seconds: float) -> None:
        stopping.wait(seconds)

    while not stopping.is_set():
        try:
            RunPod(key, url, sleep=pause).delete(pod_id)
        except EmbedstreamError as error:
            _log.error("pod_not_deleted", pod=pod_id, why=str(error), again_seconds=DELETE_AGAIN_SECONDS)
            stopping.wait(DELETE_AGAIN_SECONDS)
        else:
            _log.info("pod_deleted", pod=pod_id)
            return
