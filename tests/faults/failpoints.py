"""Named points in the consumer where a test can make the process die, stop or wait.

They are laid around the seams of the product from outside, when `tests.faults.daemon` starts,
so the product holds nothing for tests. A point is armed by a file of its name in the daemon's control folder
that holds an action; the file is taken away by the one who acts on it, and the act is noted in `hits` first
(but for `during_commit`, which only kills, and tells by that).

    kill SECONDS    SIGKILL, after a delay (0 if not named)
    stop            SIGSTOP: the whole process, until it is sent SIGCONT
    wait            this thread, until a file named `release` is in the folder

`state` holds one letter, what the process was doing when it died: `-` no transaction, `o` one is open,
`c` its commit is under way.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka

import embedstream.kafka
from consumer.ownership import Ownership
from consumer.sending import Sending

__all__ = ["POINTS", "Failpoints", "install"]

POINTS = ("window_in_hand", "after_produce", "after_send_offsets", "during_commit", "inside_revoke")

Wrapper = Callable[..., Any]


class Failpoints:
    """The control folder of one daemon, as the daemon sees it."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._state = os.open(control / "state", os.O_WRONLY | os.O_CREAT)
        self.in_state("-")

    def in_state(self, letter: str) -> None:
        self._letter = letter
        os.pwrite(self._state, letter.encode(), 0)

    def take(self, name: str) -> str | None:
        """What the file of this name holds, once: whoever takes it acts on it."""
        taken = self._control / f"{name}.{threading.get_ident()}"
        try:
            (self._control / name).rename(taken)
        except FileNotFoundError:
            return None
        text = taken.read_text()
        taken.unlink()
        return text

    def peek(self, name: str) -> str | None:
        """What the file of this name holds; it stays."""
        try:
            return (self._control / name).read_text()
        except FileNotFoundError:
            return None

    def note(self, name: str) -> None:
        """Tell the test that something happened; a line lasts even if the process dies at once."""
        with (self._control / "hits").open("a") as hits:
            hits.write(f"{name}\n")

    def reached(self, name: str) -> None:
        """Act, if the point is armed."""
        action = self.take(name)
        if action is not None:
            self._act(name, action)

    def commit_begins(self) -> None:
        """Arm a timer that kills while the commit is under way; too late, the next commit gets it."""
        self.in_state("c")
        action = self.take("during_commit")
        if action is not None:
            threading.Thread(target=self._kill_during_commit, args=(action,), daemon=True).start()

    def _kill_during_commit(self, action: str) -> None:
        _, _, delay = action.partition(" ")
        time.sleep(float(delay or 0))
        # Nothing in between, not even a note: a commit may take a few milliseconds only.
        if self._letter == "c":
            os.kill(os.getpid(), signal.SIGKILL)
        (self._control / "during_commit").write_text(action)

    def _act(self, name: str, action: str) -> None:
        verb, _, delay = action.partition(" ")
        time.sleep(float(delay or 0))
        self.note(name)
        if verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif verb == "wait":
            while self.take("release") is None:
                time.sleep(0.01)
        else:
            raise ValueError(f"{name} is armed with {action!r}")


def install(points: Failpoints) -> None:
    """Lay the points around the running program's own classes."""

    def before(name: str) -> Callable[[Wrapper], Wrapper]:
        def wrapper(call: Wrapper) -> Wrapper:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                points.reached(name)
                return call(*args, **kwargs)

            return wrapped

        return wrapper

    def after_sending(call: Wrapper) -> Wrapper:
        def wrapped(sending: Sending, items: Sequence[Any]) -> None:
            call(sending, items)
            if sending.failed is None:
                points.reached("after_produce")

        return wrapped

    _wrap(Ownership, "open_transaction", before("window_in_hand"))
    _wrap(Ownership, "withdraw", before("inside_revoke"))
    _wrap(Sending, "send", after_sending)
    _wrap(embedstream.kafka, "Producer", lambda _: _watched(points))


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    setattr(owner, name, wrapper(getattr(owner, name)))


def _watched(points: Failpoints) -> type[confluent_kafka.Producer]:
    class WatchedProducer(confluent_kafka.Producer):
        """Says what its transaction is doing."""

        def begin_transaction(self, *args: Any) -> None:
            super().begin_transaction(*args)
            points.in_state("o")

        def send_offsets_to_transaction(self, *args: Any) -> None:
            super().send_offsets_to_transaction(*args)
            points.reached("after_send_offsets")

        def commit_transaction(self, *args: Any) -> None:
            points.commit_begins()
            try:
                super().commit_transaction(*args)
            except confluent_kafka.KafkaException:
                points.in_state("o")
                raise
            points.in_state("-")

        def abort_transaction(self, *args: Any) -> None:
            super().abort_transaction(*args)
            points.in_state("-")

    return WatchedProducer
