"""A network for each daemon alone, which can be cut, slowed down or left half open.

Every broker gets one more listener for each daemon, and advertises it under the port of a proxy (toxiproxy).
So what is done to a daemon's network concerns its connections to all brokers, and nobody else's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from embedstream.broker import ends_with_parent
from tests.brokers import REPOSITORY, ApacheCluster, free_ports
from tests.kafka import wait_until

__all__ = ["Network", "find_toxiproxy"]

# Not through a proxy that the environment may name.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SHARED_TOXIPROXY = REPOSITORY.parent / "shared" / "tools" / "toxiproxy-server"


def find_toxiproxy() -> Path | None:
    """The proxy's server: from TOXIPROXY, from PATH or from ../shared/tools; None where there is none."""
    named = os.environ.get("TOXIPROXY") or shutil.which("toxiproxy-server")
    path = Path(named) if named else SHARED_TOXIPROXY
    return path if path.is_file() else None


class Network:
    """The proxies between daemons and brokers; a context manager. Make it before the cluster starts."""

    def __init__(self, server: Path, cluster: ApacheCluster, daemons: Sequence[str]) -> None:
        """Adds the listeners to the cluster's settings.

        Args:
            server: Toxiproxy's.
            cluster: Not yet started.
            daemons: Their names.
        """
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._routes: dict[str, list[tuple[str, int, int]]] = {name: [] for name in daemons}
        free = iter(free_ports(2 * len(daemons) * len(cluster.nodes)))
        for node in cluster.nodes:
            client, controller = node.ports
            listens, advertised = [f"CLIENT://127.0.0.1:{client}"], [f"CLIENT://127.0.0.1:{client}"]
            for number, name in enumerate(daemons):
                port, proxy = next(free), next(free)
                listens.append(f"DAEMON{number}://127.0.0.1:{port}")
                advertised.append(f"DAEMON{number}://127.0.0.1:{proxy}")
                self._routes[name].append((f"{name}-{node.number}", port, proxy))
            names = ["CLIENT", "CONTROLLER", *(f"DAEMON{number}" for number in range(len(daemons)))]
            node.settings |= {
                "listeners": ",".join([*listens, f"CONTROLLER://127.0.0.1:{controller}"]),
                "advertised.listeners": ",".join(advertised),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
                "inter.broker.listener.name": "CLIENT",
            }

    def __enter__(self) -> Self:
        (self._port,) = free_ports(1)
        command = [str(self._server), "-host", "127.0.0.1", "-port", str(self._port)]
        self._process = subprocess.Popen(
            ends_with_parent(command, signal.SIGKILL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, 10, "toxiproxy does not answer")
        for routes in self._routes.values():
            for route in routes:
                self._open(*route)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def bootstrap(self, daemon: str) -> str | None:
        """Where this daemon finds the brokers; None for one without a network of its own."""
        return ",".join(f"127.0.0.1:{proxy}" for _, _, proxy in self._routes.get(daemon, [])) or None

    def cut(self, daemon: str) -> None:
        """Closes its connections and refuses new ones."""
        self._each(daemon, "POST", "", {"enabled": False})

    def slow_down(self, daemon: str, milliseconds: int) -> None:
        """Delays everything that it gets."""
        attributes = {"latency": milliseconds, "jitter": milliseconds // 2}
        self._each(daemon, "POST", "/toxics", {"name": "slow", "type": "latency", "attributes": attributes})

    def half_open(self, daemon: str) -> None:
        """Its connections stay, and nothing comes through any more, in either direction."""
        for stream in ("upstream", "downstream"):
            toxic = {"name": stream, "type": "timeout", "stream": stream, "attributes": {"timeout": 0}}
            self._each(daemon, "POST", "/toxics", toxic)

    def answer_no_more(self, daemon: str) -> None:
        """What it sends arrives, and no answer comes back."""
        toxic = {"name": "deaf", "type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}
        self._each(daemon, "POST", "/toxics", toxic)

    def mend(self, daemon: str) -> None:
        """As if nothing had been, but for connections: what a half-open one lost would never come again."""
        for route in self._routes[daemon]:
            # The proxy hangs when a fault is taken from one that has lost its connections.
            self._call("DELETE", f"/proxies/{route[0]}")
            self._open(*route)

    def _open(self, route: str, port: int, proxy: int) -> None:
        addresses = {"listen": f"127.0.0.1:{proxy}", "upstream": f"127.0.0.1:{port}"}
        self._call("POST", "/proxies", {"name": route, **addresses, "enabled": True})

    def _each(self, daemon: str, method: str, path: str, body: dict[str, Any]) -> None:
        for route, _, _ in self._routes[daemon]:
            self._call(method, f"/proxies/{route}{path}", body)

    def _answers(self) -> bool:
        try:
            self._call("GET", "/proxies")
        except OSError:
            return False
        return True

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        with _DIRECT.open(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None
