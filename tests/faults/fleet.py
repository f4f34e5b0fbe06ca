"""Consumer daemons as processes, and the supervisor that starts them again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedstream.broker import ends_with_parent
from tests.cli import clean_environment
from tests.faults.network import Network
from tests.kafka import Topics

__all__ = ["SESSION_SECONDS", "TRANSACTION_SECONDS", "Daemon", "Fleet"]

SESSION_SECONDS = 6.0
TRANSACTION_SECONDS = 6.0
# What a supervisor starts again: could not reach a service, try again. A signal as well; 5 and 78 never.
RESTARTED = (69, 75)
# SIGTERM has no handler yet while Python starts.
ASKED_FOR = (0, -signal.SIGKILL, -signal.SIGTERM)

SETTINGS = {
    "CONSUMER__SESSION_TIMEOUT_SECONDS": f"{SESSION_SECONDS:g}",
    "CONSUMER__TRANSACTION_TIMEOUT_SECONDS": f"{TRANSACTION_SECONDS:g}",
    "CONSUMER__MAX_POLL_INTERVAL_SECONDS": "12",
    "CONSUMER__WINDOW_SECONDS": "0.5",
    "CONSUMER__WINDOW_BYTES": "24000",
    "CONSUMER__LINGER_SECONDS": "0.05",
    "KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS": "3000",
    "METRICS__PORT": "-1",
}


@dataclass
class Daemon:
    """One place in the fleet: an instance id, a control folder, a log, and the process of today if any.

    Attributes:
        wanted: Whether the supervisor starts it again.
        delay: Seconds that the supervisor waits before it does.
    """

    name: str
    instance_id: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    delay: float = 0.2
    stopped: bool = False
    ended_at: float | None = None
    exits: list[int] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def state(self) -> str:
        """What the process was doing (see `tests.faults.failpoints`)."""
        return (self.folder / "state").read_text()

    def arm(self, point: str, action: str) -> None:
        """Arms a failpoint, or says what the encoder does; whole, or not at all."""
        draft = self.folder / f".{point}"
        draft.write_text(action)
        draft.rename(self.folder / point)

    def disarm(self, point: str) -> bool:
        """Takes it back; False if it was used meanwhile."""
        try:
            (self.folder / point).unlink()
        except FileNotFoundError:
            return False
        return True

    def hits(self) -> Counter[str]:
        path = self.folder / "hits"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self.stopped = number == signal.SIGSTOP

    def resume(self) -> None:
        """Wakes it up if it still is there."""
        self.stopped = False
        if self.running:
            self.signal(signal.SIGCONT)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events of these names in its log."""
        found = []
        for line in self.log.splitlines():
            # A line may be cut off where a process was killed.
            if any(f'"event": "{name}"' in line for name in names) and line.endswith("}"):
                found.append(json.loads(line))
        return found

    @property
    def owned(self) -> set[int]:
        """The partitions that it has, as its log tells."""
        partitions: set[int] = set()
        names = ("consuming", "partitions_assigned", "partitions_revoked", "partitions_lost", "expelled")
        for event in self.events(*names):
            if event["event"] == "consuming":
                partitions.clear()
            elif event["event"] == "partitions_assigned":
                partitions |= set(event["partitions"])
            else:
                partitions -= set(event["partitions"])
        return partitions


class Fleet:
    """The daemons of one group.

    Attributes:
        exits: How often a process ended with each code.
        restarts: The last words of those that asked for a restart.
        problems: What should not have ended.
    """

    def __init__(
        self,
        topics: Topics,
        folder: Path,
        *,
        protocol: str = "classic",
        delivery: str = "exactly-once",
        encoder: dict[str, object] | None = None,
        network: Network | None = None,
    ) -> None:
        self.group = topics.documents
        self.daemons: dict[str, Daemon] = {}
        self.exits: Counter[int] = Counter()
        self.restarts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._topics = topics
        self._folder = folder
        self._encoder = encoder or {}
        self._network = network
        self._settings = SETTINGS | {"CONSUMER__GROUP_PROTOCOL": protocol, "CONSUMER__DELIVERY": delivery}

    @property
    def running(self) -> list[Daemon]:
        """Those that run and are not stopped."""
        return [each for each in self.daemons.values() if each.running and not each.stopped]

    @property
    def hits(self) -> Counter[str]:
        return sum((each.hits() for each in self.daemons.values()), Counter())

    def add(self, name: str, *, instance_id: str | None = None, wanted: bool = True) -> Daemon:
        """Starts a daemon; two of them may be given the same instance id."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        daemon = self.daemons.setdefault(name, Daemon(name, instance_id or name, folder))
        self.supervise()
        daemon.wanted = wanted
        self._start(daemon)
        return daemon

    def supervise(self) -> None:
        """Starts again what ended and may be; notes what should not have ended. Call it often."""
        for daemon in self.daemons.values():
            if daemon.process is None or daemon.running:
                continue
            if daemon.ended_at is None:
                daemon.ended_at = time.monotonic()
                code = daemon.process.wait()
                daemon.exits.append(code)
                daemon.stopped = False
                self.exits[code] += 1
                if code in RESTARTED:
                    self.restarts[daemon.log.splitlines()[-1]] += 1
                if code not in (*RESTARTED, *ASKED_FOR):
                    self.problems.append(f"{daemon.name} ended with {code}: {daemon.log[-1500:]}")
                if code > 0 and code not in RESTARTED:
                    daemon.wanted = False
            if daemon.wanted and time.monotonic() - daemon.ended_at >= daemon.delay:
                daemon.delay = 0.2
                self._start(daemon)

    def close(self) -> None:
        for daemon in self.daemons.values():
            if daemon.process is not None:
                daemon.process.kill()
                daemon.process.wait()

    def told(self, tell: Callable[[str], None]) -> None:
        """Hands each log to `tell`, with the stacks of those that run, for a failed test."""
        for daemon in self.running:
            daemon.signal(signal.SIGUSR1)
        time.sleep(0.5)
        for daemon in self.daemons.values():
            lines = [line for line in daemon.log.splitlines() if '"window_delivered"' not in line]
            tell("\n".join([f"--- {daemon.name}, exit codes {daemon.exits}", *lines[-60:]]))

    def _start(self, daemon: Daemon) -> None:
        settings = {f"EMBEDSTREAM_{name}": value for name, value in self._settings.items()}
        faults = {"control": str(daemon.folder), "encoder": self._encoder}
        environment = clean_environment({"FAULTS": json.dumps(faults), **settings})
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-m", "tests.faults.daemon", *self._topics.flags]
        bootstrap = self._network and self._network.bootstrap(daemon.name)
        if bootstrap:
            command += ["--bootstrap-servers", bootstrap]
        command += ["--group", self.group, "--instance-id", daemon.instance_id]
        daemon.ended_at = None
        with (daemon.folder / "log").open("ab") as log:
            log.write(b"\n")
            log.flush()
            daemon.process = subprocess.Popen(
                ends_with_parent(command, signal.SIGKILL),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=daemon.folder,
            )
