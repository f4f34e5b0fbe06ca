"""A real Redis for tests, on loopback and in memory: it can be frozen, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest
from redis import Redis
from redis.exceptions import RedisError

from embedstream.broker import ends_with_parent
from tests.brokers import free_ports
from tests.kafka import wait_until

__all__ = ["RedisServer"]


class RedisServer:
    """A server without persistence; a context manager that leaves nothing running.

    Attributes:
        client: Of the test's own, with time to spare.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        """Nothing runs yet; `options` are those of redis-server."""
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            told = "no redis-server was found: install it (on Debian: apt-get install redis-server)"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(told)
            pytest.skip(told)
        (self.port,) = free_ports(1)
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command = [binary, *own, "--save", "", "--appendonly", "no", *options]
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Redis = Redis(port=self.port, socket_timeout=10)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.kill()

    def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ends_with_parent(self._command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, 20.0, "Redis did not come up")

    def pause(self) -> None:
        """Freezes it: connections are still taken, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return bool(self.client.ping())
        except RedisError:
            return False
