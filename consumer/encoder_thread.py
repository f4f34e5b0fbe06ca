"""The thread that the model lives on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from consumer.encoder import Encoder

__all__ = ["EncoderThread"]


class EncoderThread:
    """The thread that loads the model and then runs it.

    It must be one and the same: OpenMP keeps a pool of threads for each thread that has computed, and with
    two pools on the same cores its threads no longer wait actively for each other (a tenth of a CPU's speed).
    Where a model is run by `consumer/streams.py`, this thread only waits for those.
    """

    def __init__(self, load: Callable[[], Encoder], on_error: Callable[[BaseException], None]) -> None:
        self._load = load
        self._on_error = on_error
        self._loaded: Future[Encoder] = Future()
        self._job: Future[Callable[[], None]] = Future()
        # A daemon thread: a device that hangs must not keep a failed process alive.
        self._thread = threading.Thread(target=self._run, name="embed", daemon=True)
        self._thread.start()

    def encoder(self) -> Encoder:
        """Waits until the model is loaded; raises what loading raised."""
        return self._loaded.result()

    def work(self, job: Callable[[], None]) -> threading.Thread:
        """Runs the job, and returns the thread, which ends with it."""
        self._job.set_result(job)
        return self._thread

    def end(self) -> None:
        """Lets the thread go if it was given nothing to do."""
        if not self._job.done():
            self._job.set_result(lambda: None)

    def _run(self) -> None:
        try:
            self._loaded.set_result(self._load())
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        try:
            self._job.result()()
        except BaseException as error:
            self._on_error(error)
