"""Serves `/metrics`, behind a bearer token where one is set, and a process's own pages.

The health pages need no token: they tell nothing of the corpus, and what asks for them has none.
"""

from __future__ import annotations

import hmac
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from embedstream.errors import ConfigError
from embedstream.logs import get_logger
from embedstream.metrics import Metrics
from embedstream.settings import MetricsSettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Page", "serve"]

Page: TypeAlias = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Says whether all is well, and the document that tells why."""

# Who connects and asks nothing is let go.
SILENT_SECONDS = 10.0

_log = get_logger("metrics")


def serve(metrics: Metrics, settings: MetricsSettings, pages: Mapping[str, Page] | None = None) -> None:
    """Serves `/metrics` in a daemon thread, unless the port is -1.

    Args:
        metrics: what `/metrics` shows; counts who is turned away.
        settings: where to listen, and the token.
        pages: more paths, each a JSON document: with status 200 if all is well, 503 if not.

    Raises:
        ConfigError: the address can't be listened on.
    """
    if settings.port < 0:
        return
    application = _application(
        pages or {}, _guarded(make_wsgi_app(metrics.registry), metrics, settings.token)
    )

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET

    try:
        # Not prometheus_client's own: that would answer without the token for a moment.
        server = make_server(settings.host, settings.port, application, Server, _Handler)
    except OSError as error:
        raise ConfigError(
            f"metrics.host {settings.host} with metrics.port {settings.port} can't be listened on"
            f" ({error.strerror})",
            "set another --metrics-port (0 takes a free one, -1 none)",
        ) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    _log.info(
        "metrics_listening",
        host=settings.host,
        port=server.server_port,
        needs_token=settings.token is not None,
    )


class _Server(ThreadingWSGIServer):
    """Answers each request in a thread; a client that hangs up or says nothing is no trouble of ours."""

    def handle_error(self, *_: object) -> None:
        _log.debug("request_failed", error=repr(sys.exception()))


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def log_message(self, *_: object) -> None:
        pass


def _guarded(others: WSGIApplication, metrics: Metrics, token: str | None) -> WSGIApplication:
    """Lets only those in who know the token, if there is one."""
    if token is None:
        return others
    wanted = f"Bearer {token}".encode()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION")
        # WSGI hands headers over as Latin-1; compared in a time that tells nothing of the token.
        if given is not None and hmac.compare_digest(given.encode("latin-1", "replace"), wanted):
            return others(environ, start_response)
        metrics.metrics_refused_total.labels(reason="missing" if given is None else "wrong").inc()
        headers = [("Content-Type", "text/plain"), ("WWW-Authenticate", 'Bearer realm="metrics"')]
        start_response("401 Unauthorized", headers)
        return [b"a bearer token is needed: metrics.token\n"]

    return application


def _application(pages: Mapping[str, Page], others: WSGIApplication) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            return others(environ, start_response)
        well, document = page()
        status = "200 OK" if well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps(document).encode() + b"\n"]

    return application
