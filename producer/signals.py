"""The first SIGINT or SIGTERM of a run ends it in order; the second acts as if nobody listened."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

__all__ = ["Stop", "stop_on_signals"]


@dataclass(slots=True)
class Stop:
    """The signal that came, None until one does."""

    signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM instead of ending; after it, both are as they were before."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets the main thread alone have handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        stop.signal = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
