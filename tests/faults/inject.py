"""How each kind of fault is done to a running harness."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
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
            "zombie_in_hand": partial(self._zombie, point="window_in_hand"),
            "zombie_after_produce": partial(self._zombie, point="after_produce"),
            "join": self._join,
            "leave": self._leave,
            "slow_encoder": self._slow_encoder,
            "out_of_memory": self._out_of_memory,
            "raising": self._poison,
            "nan": self._poison,
            "broker_kill": self._broker,
            "broker_freeze": self._broker,
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

    def _kill(self, fault: Fault) -> bool:
        daemon = self._victim()
        daemon.delay = _restart_delay(fault)
        daemon.signal(signal.SIGKILL)
        return self._died(daemon)

    def _kill_at(self, point: str, fault: Fault) -> bool:
        daemon = self._victim()
        daemon.delay = _restart_delay(fault)
        # A commit takes 50 ms and more: somewhere within.
        action = f"kill {0.04 * fault.chance:.3f}" if point == "during_commit" else "kill"
        return self._hit(daemon, point, action) and self._died(daemon)

    def _kill_inside_revoke(self, fault: Fault) -> bool:
        """A newcomer makes the group take partitions away from the others, one of which dies meanwhile."""
        daemon = self._victim()
        daemon.delay = _restart_delay(fault)
        if not self._join(fault):
            # All run: the victim itself leaves.
            daemon.signal(signal.SIGTERM)
        return self._hit(daemon, "inside_revoke", "kill") and self._died(daemon)

    def _died(self, daemon: Daemon) -> bool:
        assert daemon.process is not None
        daemon.process.wait(10)
        self.kills += 1
        self.open_kills += daemon.state in ("o", "c")
        return True

    def _zombie(self, fault: Fault, point: str | None = None) -> bool:
        """Stopped past its session, then awake again."""
        daemon = self._victim()
        if point is None:
            daemon.signal(signal.SIGSTOP)
        elif not self._hit(daemon, point, "stop"):
            return False
        daemon.stopped = True
        self._harness.later(SESSION_SECONDS + 1 + 5 * fault.chance, daemon.resume)
        return True

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
        fleet = self._harness.fleet
        away = [each.name for each in fleet.daemons.values() if not each.wanted and not each.running]
        if not away and len(fleet.daemons) < MOST_DAEMONS:
            away = [f"slot-{len(fleet.daemons)}"]
        if away:
            fleet.add(self._rng.choice(away))
        return bool(away)

    def _slow_encoder(self, fault: Fault) -> bool:
        """One batch takes longer than the poll interval."""
        return self._hit(self._victim(), "slow", f"{13 + 3 * fault.chance:.1f}")

    def _out_of_memory(self, _: Fault) -> bool:
        daemon = self._victim()
        hit = self._hit(daemon, "out_of_memory", OUT_OF_MEMORY_TOKENS)
        self._harness.later(2.0, partial(daemon.disarm, "out_of_memory"))
        return hit

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
        if fault.kind == "broker_kill":
            node.kill()
            seconds, mend = 0.5 + 5 * fault.chance, node.start
        else:
            node.pause()
            seconds, mend = 2 + 10 * fault.chance, node.resume

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

    def _hit(self, daemon: Daemon, point: str, action: str) -> bool:
        """Arms the point and waits until it was hit; False if it is not."""
        before = daemon.hits()[point]
        daemon.arm(point, action)
        try:
            self._harness.wait(lambda: daemon.hits()[point] > before, HIT_SECONDS, f"{point} is not hit")
        except AssertionError:
            if daemon.disarm(point):
                return False
        self.hits[point] += 1
        return True


def _restart_delay(fault: Fault) -> float:
    """At once, so that it takes its place back; or when the others have taken over."""
    return 0.2 if fault.chance < 0.5 else SESSION_SECONDS + 2
