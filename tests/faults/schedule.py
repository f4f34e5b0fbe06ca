"""Which fault comes next: dealt from a shuffled pack, so that every kind comes equally often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BROKER_FAULTS",
    "DATA_FAULTS",
    "KILLS",
    "NETWORK_FAULTS",
    "PROCESS_FAULTS",
    "Fault",
    "Pack",
    "family",
]

KILLS = ("kill", "kill_after_produce", "kill_after_send_offsets", "kill_during_commit", "kill_inside_revoke")
PROCESS_FAULTS = (*KILLS, "terminate", "zombie", "zombie_in_hand", "join", "leave")
DATA_FAULTS = ("slow_encoder", "out_of_memory", "raising", "nan")
BROKER_FAULTS = ("broker_kill", "broker_freeze", "broker_disk_full")
NETWORK_FAULTS = ("network_cut", "network_slow", "network_half_open")
HASTY_SHARE = 0.4


def family(kind: str) -> str:
    """What a kind is, wherever it strikes: all kills are one, and so are all zombies."""
    name = kind.partition("_")[0]
    return name if name in ("kill", "zombie") else kind


@dataclass(frozen=True)
class Fault:
    """One fault, with the chances that decide how it goes.

    Attributes:
        kind: One of the names above.
        chance: From 0 to 1: how long a stop or a pause lasts within the range of its kind.
        hasty: Whether it comes as soon as anything has moved since the last, or once everything has.
    """

    kind: str
    chance: float
    hasty: bool


class Pack:
    """An endless pack of faults."""

    def __init__(self, kinds: Sequence[str], rng: random.Random) -> None:
        self._kinds = list(kinds)
        self._rng = rng
        self._left: list[str] = []

    def deal(self) -> Fault:
        if not self._left:
            self._shuffle()
        return Fault(self._left.pop(), self._rng.random(), self._rng.random() < HASTY_SHARE)

    def put_back(self, fault: Fault) -> None:
        """A fault that is not possible now comes later."""
        if not self._left:
            self._shuffle()
        self._left.insert(0, fault.kind)

    def _shuffle(self) -> None:
        self._left = self._rng.sample(self._kinds, len(self._kinds))
