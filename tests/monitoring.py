"""Real Prometheus and Alertmanager for tests: on 127.0.0.1, on free ports, ended with the process."""

from __future__ import annotations

import http.server
import json
import math
import shutil
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from embedstream.broker import ends_with_parent
from embedstream.fleet.discovery import make_server
from tests.brokers import REPOSITORY, free_ports
from tests.kafka import wait_until
from tests.runpod import FakeRunPod
from tests.unit.embedstream.fleet.fleets import a_fleet, a_spec, choices, environment

__all__ = ["Alertmanager", "Prometheus", "Webhook", "needed", "rented_pods"]

DEPLOY = REPOSITORY / "deploy"


def needed(program: str) -> str:
    """The path of a program; where it is missing the test skips, which fails in CI."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: on Debian, prometheus and prometheus-alertmanager")
    return found


class _Server:
    """A process that listens on a port and answers `/-/ready`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        with (self._folder / f"{self._name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                ends_with_parent([needed(self._name), *arguments], signal.SIGKILL),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._is_ready, 60, f"{self._name} does not come up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            print((self._folder / f"{self._name}.log").read_text(errors="replace")[-4000:])

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=30) as answer:
            return json.loads(answer.read())


class Webhook:
    """Takes what Alertmanager sends; a context manager.

    Attributes:
        paths: The path of each request, in order.
    """

    def __init__(self) -> None:
        paths: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                paths.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.paths = paths
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Alertmanager(_Server):
    """Alertmanager with the configuration that is shipped, sooner, and with the webhooks of a test."""

    def __init__(self, folder: Path, webhook: Webhook) -> None:
        super().__init__(folder, "prometheus-alertmanager")
        (folder / "password").write_text("none")
        text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
        for shipped, here in (
            ("127.0.0.1:9095", webhook.address),
            ("/etc/alertmanager/smtp-password", str(folder / "password")),
            ("group_wait: 30s", "group_wait: 1s"),
            ("group_interval: 5m", "group_interval: 1s"),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        (folder / "alertmanager.yml").write_text(text)

    def __enter__(self) -> Self:
        self.start(
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        )
        return self

    def active(self) -> set[str]:
        """The names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self.ask("/api/v2/alerts", active="true")}


@contextmanager
def rented_pods(folder: Path) -> Iterator[int]:
    """The port of `embedstream fleet sd` over two pods that have run for an hour."""
    api = FakeRunPod()
    fleet, spec = a_fleet(api, folder), a_spec(2)
    fleet.ledger.ask_for(spec)
    fleet.raise_pods(spec, choices(fleet, spec), environment(spec))
    api.sleep(3600)
    server = make_server(fleet, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Prometheus(_Server):
    """Prometheus with the rules that are shipped, scraping every second."""

    def __init__(
        self, folder: Path, alertmanager: Alertmanager, targets: Sequence[int], token: str, rent: int
    ) -> None:
        super().__init__(folder, "prometheus")
        for name in ("recording.rules.yml", "alerts.rules.yml"):
            lines = (DEPLOY / "prometheus" / name).read_text().splitlines()
            # An alert as soon as its expression is true: how long it waits is tested by promtool.
            soon = [line.split("for:")[0] + "for: 0s" if "  for: " in line else line for line in lines]
            (folder / name).write_text("\n".join(soon) + "\n")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["recording.rules.yml", "alerts.rules.yml"],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]}]
            },
            "scrape_configs": [
                {
                    "job_name": "embedstream",
                    "authorization": {"credentials": token},
                    "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}],
                },
                {"job_name": "rent", "static_configs": [{"targets": [f"127.0.0.1:{rent}"]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        self.start(
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )
        return self

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series of an expression now, those that are no number left out."""
        answer = self.ask("/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        found = [(each["metric"], float(each["value"][1])) for each in data["result"]]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def value(self, expression: str) -> float | None:
        """The one value of an expression; None where it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None
