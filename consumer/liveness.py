"""Whether the daemon lives: three clocks, each with a bound, behind `/healthz` and `/readyz`.

    polling      the thread that owns the Kafka consumer goes round
    progressing  records in hand move on: a chunk is split, a batch encoded, a window's delivery tried; a
                 daemon that has nothing in hand is healthy
    in_group     the group has this daemon, with partitions or without

A clock tells how long ago it moved. They begin when the daemon joins the group: loading a model may take
minutes, which is starting up, not being stuck. A broker that is away for longer than the bounds makes a
daemon unhealthy too; it goes on by itself when the broker is back.
"""

from __future__ import annotations

import json
import time
from enum import StrEnum
from typing import Any

from embedstream.settings import ConsumerSettings

__all__ = ["Clock", "Liveness", "State"]


class State(StrEnum):
    """What the daemon is at."""

    STARTING = "starting"
    """It checks the topics and loads the model."""
    CONSUMING = "consuming"
    """It has joined the group, or tries to."""
    LEAVING = "leaving"
    """It was asked to end, or failed."""


class Clock:
    """How long ago something moved; one thread or several move it, any thread reads it."""

    def __init__(self, bound: float) -> None:
        """It has not begun yet.

        Args:
            bound: seconds without a move from which on something is wrong.
        """
        self.bound = bound
        self._moved: float | None = None

    def moved(self) -> None:
        """It moved just now."""
        self._moved = time.monotonic()

    def seconds(self) -> float:
        """How long ago it moved; 0 before it begins."""
        return 0.0 if self._moved is None else time.monotonic() - self._moved

    @property
    def is_overdue(self) -> bool:
        """Whether it has not moved for longer than its bound."""
        return self.seconds() > self.bound


class Liveness:
    """The clocks of one daemon, and what it is at."""

    def __init__(self, settings: ConsumerSettings) -> None:
        """Takes the bounds from settings that mean the same.

        The group itself gives a member up that does not poll for `max_poll_interval_seconds`; no batch and no
        call of a client should take as long, but for one in a transaction that waits for its time-out.
        Joining may take as long as the slowest member takes to let go, which is the poll interval again, once
        the session of a dead one has ended.
        """
        poll = settings.max_poll_interval_seconds
        self.clocks = {
            "polling": Clock(poll),
            "progressing": Clock(poll + settings.transaction_timeout_seconds),
            "in_group": Clock(poll + settings.session_timeout_seconds),
        }
        self.state = State.STARTING
        self._is_classic = settings.group_protocol == "classic"
        self._is_member = False

    def begin(self) -> None:
        """The daemon joins the group: from now on the clocks count."""
        for clock in self.clocks.values():
            clock.moved()
        if self.state == State.STARTING:
            self.state = State.CONSUMING

    def leave(self) -> None:
        """The daemon is to end."""
        self.state = State.LEAVING

    def polled(self, *, idle: bool) -> None:
        """The poll thread has come round; with nothing in hand, nothing has to move on."""
        self.clocks["polling"].moved()
        if idle:
            self.progressed()

    def progressed(self) -> None:
        """Something in hand has moved on."""
        self.clocks["progressing"].moved()

    def told(self, statistics: str) -> None:
        """Takes the client's statistics (JSON), which alone say whether the group has us.

        A member that the classic protocol gave no partitions is `steady`; under KIP-848 it stays in `init`
        while its heartbeats are answered, which is when the coordinator counts as `up`.
        """
        group = json.loads(statistics)["cgrp"]
        joined = group["join_state"] == "steady" or not self._is_classic
        self._is_member = group["state"] == "up" and joined
        if self._is_member:
            self.clocks["in_group"].moved()

    def healthz(self) -> tuple[bool, dict[str, Any]]:
        """Whether no clock is overdue; with the age and bound of each, in seconds, and those that are."""
        failed = [name for name, clock in self.clocks.items() if clock.is_overdue]
        return not failed, {
            "ok": not failed,
            "state": self.state,
            "failed": failed,
            "clocks": {
                name: {"age_seconds": round(clock.seconds(), 3), "bound_seconds": clock.bound}
                for name, clock in self.clocks.items()
            },
        }

    def readyz(self) -> tuple[bool, dict[str, Any]]:
        """Whether the model is loaded and the group has let the daemon in, and it is not leaving."""
        ready = self.state == State.CONSUMING and self._is_member
        return ready, {"ready": ready, "state": self.state, "in_group": self._is_member}
