"""How each kind of fault is done to a running harness."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from tests.faults.fleet import SESSION_SECONDS, Daemon
from tests.faults.harness import PARTITIONS, Harness
from tests.faults.schedule import Fault

__all__ = ["Injector"]

MOST_DAEMONS = 4
FEWEST_DAEMONS = 2
HIT_SECONDS = 15.0
OUT_OF_MEMORY_TOKENS = "200"
SLOW_MILLISECONDS = 300
BROKER_SETTLES_SECONDS = 10.0


class Injector:
    """Does faults to a harness.

    Attributes:
        open_kills: Of the kills, those that hit an open transaction, as the dead process had noted.
    """

    def __init__(self, harness: Harness, rng: random.Random) -> None:
        self._harness = harness
        self._rng = rng
        self._node_is_down = False
        self._cut_off: set[str] = set()
        self.kills = 0
        self.open_kills = 0
        self.hits: Counter[str] = Counter()
        self._ways: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill,
            "kill_after_produce": partial(self._kill_at, "after_produce"),
            "kill_after_send_offsets": partial(self._kill_at, "after_send_offsets"),
            "kill_during_commit": partial(self._kill_at, "during_commit"),
            "kill_inside_revoke": self._kill_inside_revoke,
            "terminate": self._terminate,
            "zombie": self._zombie,
            "zombie_in_hand": self._zombie_in_hand,
            "join": self._join,
            "leave": self._leave,
            "slow_encoder": self._slow_encoder,
            "out_of_memory": self._out_of_memory,
            "raising": self._poison,
            "nan": self._poison,
            "broker_kill": self._broker,
            "broker_freeze": self._broker,
            "broker_disk_full": self._broker,
            "network_cut": self._network,
            "network_slow": self._network,
            "network_half_open": self._network,
        }

    def inject(self, fault: Fault) -> bool:
        """Does it; returns False where it is not possible now or did not take hold."""
        return self._ways[fault.kind](fault)

    def _victim(self) -> Daemon:
        """One that is up and not stopped; it may be about to join."""
        fleet = self._harness.fleet
        self._harness.wait(lambda: fleet.running, 60, "no daemon runs")
        return self._rng.choice(fleet.running)

    def _worker(self) -> Daemon:
        """One that has partitions, if any has, and a network."""
        self._victim()
        fleet = self._harness.fleet
        able = [each for each in fleet.running if each.owned and each.name not in self._cut_off]
        return self._rng.choice(able or fleet.running)

    def _kill(self, fault: Fault) -> bool:
        daemon = self._worker()
        daemon.delay = _restart_delay(fault)
        daemon.signal(signal.SIGKILL)
        return self._died([daemon])

    def _kill_at(self, point: str, fault: Fault) -> bool:
        daemon = self._worker()
        daemon.delay = _restart_delay(fault)
        # A commit takes from a few milliseconds up: somewhere within.
        action = f"kill {0.006 * fault.chance:.4f}" if point == "during_commit" else "kill"
        return self._died(self._hit([daemon], point, action))

    def _kill_inside_revoke(self, fault: Fault) -> bool:
        """The first that gives partitions away dies: a newcomer takes its place, or it was to leave."""
        fleet = self._harness.fleet
        absent = self._absent()
        if absent is None:
            daemon = self._worker()
            daemon.delay = _restart_delay(fault)
            dead = self._hit([daemon], "inside_revoke", "kill", lambda: daemon.signal(signal.SIGTERM))
        else:
            dead = self._hit(fleet.running, "inside_revoke", "kill", lambda: fleet.add(absent))
            # As many as before.
            (dead[0] if dead else fleet.daemons[absent]).wanted = False
            if not dead:
                fleet.daemons[absent].signal(signal.SIGTERM)
        return self._died(dead)

    def _died(self, dead: Sequence[Daemon]) -> bool:
        for daemon in dead:
            assert daemon.process is not None
            try:
                daemon.process.wait(10)
            except subprocess.TimeoutExpired:
                # It came too late for the commit, and waits for the next.
                return False
            self.kills += 1
            self.open_kills += daemon.state in ("o", "c")
        return bool(dead)

    def _zombie(self, fault: Fault, point: str | None = None) -> bool:
        """Stopped past its session, then awake again."""
        daemon = self._worker()
        if point is None:
            daemon.signal(signal.SIGSTOP)
        elif not self._hit([daemon], point, "stop"):
            return False
        daemon.stopped = True
        self._harness.later(SESSION_SECONDS + 1 + 4 * fault.chance, daemon.resume)
        return True

    def _zombie_in_hand(self, fault: Fault) -> bool:
        """Stopped before or within a transaction."""
        return self._zombie(fault, self._rng.choice(("window_in_hand", "after_produce")))

    def _terminate(self, _: Fault) -> bool:
        self._victim().signal(signal.SIGTERM)
        return True

    def _leave(self, _: Fault) -> bool:
        if len(self._harness.fleet.running) <= FEWEST_DAEMONS:
            return False
        daemon = self._victim()
        daemon.wanted = False
        daemon.signal(signal.SIGTERM)
        return True

    def _join(self, _: Fault) -> bool:
        absent = self._absent()
        if absent is not None:
            self._harness.fleet.add(absent)
        return absent is not None

    def _absent(self) -> str | None:
        """The name of a daemon that may join; None if all are there."""
        fleet = self._harness.fleet
        away = [each.name for each in fleet.daemons.values() if not each.wanted and not each.running]
        if not away and len(fleet.daemons) < MOST_DAEMONS:
            away = [f"slot-{len(fleet.daemons)}"]
        return self._rng.choice(away) if away else None

    def _slow_encoder(self, fault: Fault) -> bool:
        """One batch takes longer than the poll interval."""
        return bool(self._hit([self._worker()], "slow", f"{12.5 + 2 * fault.chance:.1f}"))

    def _out_of_memory(self, _: Fault) -> bool:
        daemon = self._worker()
        hit = self._hit([daemon], "out_of_memory", OUT_OF_MEMORY_TOKENS)
        self._harness.later(2.0, partial(daemon.disarm, "out_of_memory"))
        return bool(hit)

    def _poison(self, fault: Fault) -> bool:
        for partition in range(PARTITIONS):
            self._harness.feed.send_one(fault.kind, partition)
        return True

    def _broker(self, fault: Fault) -> bool:
        """One at a time, and the next only when all has moved on, or two would be down at once."""
        if self._node_is_down:
            return False
        self._node_is_down = True
        node = self._rng.choice(self._harness.cluster.nodes)
        seconds = 0.5 + 5 * fault.chance
        mend = node.start
        if fault.kind == "broker_kill":
            node.kill()
        elif fault.kind == "broker_freeze":
            node.pause()
            seconds, mend = 2 + 8 * fault.chance, node.resume
        else:
            node.fill_disk()
            self._harness.wait(lambda: node.pid is None, 30, "a broker goes on without room on its disk")
            node.kill()

        def back() -> None:
            mend()
            self._harness.later(BROKER_SETTLES_SECONDS, settled)

        def settled() -> None:
            self._node_is_down = False

        self._harness.later(seconds, back)
        return True

    def _network(self, fault: Fault) -> bool:
        network = self._harness.network
        assert network is not None, "this run has no network to break"
        name = self._victim().name
        if name in self._cut_off:
            return False
        self._cut_off.add(name)
        if fault.kind == "network_cut":
            network.cut(name)
        elif fault.kind == "network_slow":
            network.slow_down(name, SLOW_MILLISECONDS)
        else:
            network.half_open(name)

        def mend() -> None:
            network.mend(name)
            self._cut_off.discard(name)

        # Some end within the session and the transaction time-out, some don't.
        self._harness.later(1 + 11 * fault.chance, mend)
        return True

    def _hit(
        self, daemons: Sequence[Daemon], point: str, action: str, then: Callable[[], object] = int
    ) -> list[Daemon]:
        """Arms the point, does what leads to it, and waits until it is hit; returns those that were."""
        before = {each.name: each.hits()[point] for each in daemons}
        for each in daemons:
            each.arm(point, action)
        then()

        def hit(daemon: Daemon) -> bool:
            return daemon.hits()[point] > before[daemon.name]

        def told() -> bool:
            return any(hit(each) or not each.running for each in daemons)

        with contextlib.suppress(AssertionError):
            self._harness.wait(told, HIT_SECONDS, f"{point} is not hit")
        # What can't be taken back was taken a moment ago.
        found = [each for each in daemons if hit(each) or not each.disarm(point)]
        self.hits[point] += len(found)
        return found


def _restart_delay(fault: Fault) -> float:
    """At once, so that it takes its place back; or when the others have taken over."""
    return 0.2 if fault.chance < 0.5 else SESSION_SECONDS + 2
