"""Where Prometheus finds the pods: HTTP service discovery, and the fleet's own metrics beside it.

`GET /` is the list that Prometheus' `http_sd_configs` reads; `GET /metrics` has the pods, dollars an hour and
dollars so far as RunPod's API tells them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import generate_latest

from embedstream.errors import ConfigError, EmbedstreamError
from embedstream.fleet.fleet import Fleet
from embedstream.fleet.plan import METRICS_PORT
from embedstream.fleet.records import Pod
from embedstream.logs import get_logger
from embedstream.metrics import Metrics

__all__ = ["make_server", "targets"]

# Whoever asks again so soon is told the same: an API that is away must not make a queue of those who wait.
FRESH_SECONDS = 5.0
_log = get_logger("discovery")


class _Looks:
    """One look at the API for all who ask within seconds; its client is for one thread at a time."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lock = threading.Lock()
        self._found: Sequence[Pod] | EmbedstreamError = ()
        self._until = 0.0

    def pods(self) -> Sequence[Pod]:
        """The pods; an error that the look ended with is raised for all.

        Raises:
            EmbedstreamError: As `Fleet.look`.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._found = self._fleet.look()
                except EmbedstreamError as error:
                    self._found = error
                self._until = time.monotonic() + FRESH_SECONDS
            if isinstance(self._found, EmbedstreamError):
                raise self._found
            return self._found


def targets(name: str, pods: Iterable[Pod]) -> list[dict[str, object]]:
    """The target groups of the pods that run, one each, through RunPod's proxy (TLS, port 443)."""
    return [
        {
            "targets": [f"{pod.id}-{METRICS_PORT}.proxy.runpod.net:443"],
            "labels": {
                "__scheme__": "https",
                "fleet": name,
                "instance_id": pod.name,
                "pod": pod.id,
                "gpu": pod.gpu_id,
            },
        }
        for pod in pods
        if pod.status == "RUNNING"
    ]


def make_server(fleet: Fleet, host: str, port: int) -> ThreadingHTTPServer:
    """A server that asks the API when it is asked; `serve_forever` runs it.

    Raises:
        ConfigError: The address can't be listened on.
    """
    told = Metrics("fleet")
    looks = _Looks(fleet)

    def metrics() -> bytes:
        pods = looks.pods()
        for status in Metrics.fleet_pods.labels["status"]:
            told.fleet_pods.labels(fleet.name, status).set(sum(pod.status == status for pod in pods))
        told.fleet_price_dollars_per_hour.labels(fleet.name).set(sum(pod.cost for pod in pods))
        told.fleet_cost_dollars.labels(fleet.name).set(fleet.ledger.dollars)
        return generate_latest(told.registry)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                if self.path == "/metrics":
                    self._answer(200, metrics(), "text/plain; version=0.0.4")
                elif self.path == "/":
                    found = json.dumps(targets(fleet.name, looks.pods())).encode()
                    self._answer(200, found, "application/json")
                else:
                    self._answer(404, b"", "text/plain")
            except EmbedstreamError as error:
                # Prometheus keeps the targets that it has when it gets no list.
                _log.warning("look_failed", why=str(error))
                self._answer(503, b"", "text/plain")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"--host {host} with --port {port} can't be listened on ({error.strerror})",
            "choose another --port (0 takes a free one)",
        ) from None
