"""Ends the process when its own end hangs: in a client that closes, in a device, in the log.

What is not committed by then is read again after the committed offsets: nothing is lost by it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from embedstream.logs import get_logger

__all__ = ["watch_the_end"]

# The log itself may be what hangs: a full pipe that nobody reads.
LOG_SECONDS = 1.0

_log = get_logger("watchdog")


def watch_the_end(ending: threading.Event, seconds: float, exit_code: Callable[[], int]) -> None:
    """Starts a thread that ends the process, at once, when it outlives its end.

    Args:
        ending: set when the process is to end.
        seconds: how long it may take from then on.
        exit_code: what the process ends with if it takes longer.
    """

    def watch() -> None:
        ending.wait()
        time.sleep(seconds)
        code = exit_code()
        telling = threading.Thread(target=_tell, args=(seconds, code), daemon=True)
        telling.start()
        telling.join(LOG_SECONDS)
        os._exit(code)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _tell(seconds: float, code: int) -> None:
    alive = sorted(each.name for each in threading.enumerate() if each.daemon)
    _log.error("end_hangs", seconds=seconds, exit_code=code, threads=alive)
