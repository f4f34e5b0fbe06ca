"""A daemon as a process: its metrics and health pages, its signals, its watchdog."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from consumer.daemon import Daemon
from consumer.encoder import Encoder, ModelInfo
from consumer.watchdog import watch_the_end
from embedstream.logs import get_logger
from embedstream.metrics_server import serve
from embedstream.settings import Settings

__all__ = ["run_daemon"]

_log = get_logger("daemon")


def run_daemon(
    settings: Settings,
    load: Callable[[], Encoder] | None = None,
    prepare: Callable[[ModelInfo], None] | None = None,
) -> None:
    """The `consume` command: a daemon with its metrics and signal handlers.

    Args:
        settings: all of them.
        load: another encoder than the one that the settings name.
        prepare: see `Daemon`.

    Raises:
        EmbedstreamError: see `Daemon.run`.
    """

    def load_model() -> Encoder:
        from consumer.model import load_encoder  # torch takes seconds to import

        return load_encoder(settings.encoder, settings.consumer.overflow)

    daemon = Daemon(settings, load or load_model, prepare=prepare)
    pages = {"/healthz": daemon.liveness.healthz, "/readyz": daemon.liveness.readyz}
    serve(daemon.metrics, settings.metrics, pages)
    with _signals(daemon):
        watch_the_end(daemon.ending, settings.consumer.stop_seconds, lambda: daemon.exit_code)
        daemon.run()


@contextmanager
def _signals(daemon: Daemon) -> Iterator[None]:
    """SIGTERM and SIGINT ask for a clean end; a second one ends at once (nothing is lost by that)."""

    def handle(number: int, _: FrameType | None) -> None:
        daemon.stop()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        _log.info("stopping", signal=signal.Signals(number).name)

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
