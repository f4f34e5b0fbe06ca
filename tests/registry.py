"""A real schema registry for tests, and a gate before it that counts and can refuse."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest

from embedstream.broker import ends_with_parent
from tests.brokers import REPOSITORY, free_ports
from tests.kafka import wait_until

__all__ = ["Gate", "SchemaRegistry"]

HOME = REPOSITORY.parent / "shared" / "registry"
PATH = "/apis/ccompat/v7"


class SchemaRegistry:
    """Apicurio Registry in memory, speaking Confluent's interface; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet."""
        script = Path(os.environ.get("SCHEMA_REGISTRY_HOME", HOME)) / "registry"
        if not script.is_file() or (shutil.which("java") is None and "JAVA_HOME" not in os.environ):
            told = "no schema registry: set SCHEMA_REGISTRY_HOME to a folder with `registry PORT`, and Java"
            if os.environ.get("CI", "").lower() in ("1", "true") and HOME.exists():
                pytest.fail(told)
            pytest.skip(told)
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self._command = [str(script), str(port)]
        self._log = folder / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ends_with_parent(self._command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, 90.0, "the schema registry did not come up")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


class Gate:
    """Passes requests on to a registry, or answers itself; a context manager.

    Attributes:
        url: What to set as `schema_registry.url`.
        requests: Method and path of each request that came.
        user: NAME:PASSWORD that is asked for; None for none.
        answer: Status and body to answer everything with; None to pass it on.
    """

    def __init__(self, behind: str = "", user: str | None = None) -> None:
        """Listens; `behind` is the URL of the registry that requests are passed on to."""
        self.requests: list[str] = []
        self.user = user
        self.answer: tuple[int, bytes] | None = None
        self._behind = behind
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def passed(
        self, method: str, path: str, body: bytes | None, authorization: str | None
    ) -> tuple[int, bytes]:
        self.requests.append(f"{method} {path}")
        if self.user is not None:
            wanted = base64.b64encode(self.user.encode()).decode()
            if authorization != f"Basic {wanted}":
                return 401, b'{"error_code": 401, "message": "Unauthorized"}'
        if self.answer is not None:
            return self.answer
        request = urllib.request.Request(self._behind + path, body, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                authorization = self.headers.get("Authorization")
                status, answer = gate.passed(self.command, self.path, body, authorization)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler
