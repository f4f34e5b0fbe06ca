"""A real Redis for tests, on loopback and in memory: it can be frozen, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
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

    def __init__(self, folder: Path, *options: str, tls: bool = False) -> None:
        """Nothing runs yet; `options` are those of redis-server. With `tls`, nothing else is spoken."""
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            told = "no redis-server was found: install it (on Debian: apt-get install redis-server)"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(told)
            pytest.skip(told)
        (self.port,) = free_ports(1)
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if tls:
            certificate, key = _certificate(folder)
            own = ["--tls-port", str(self.port), "--port", "0", *own[2:], "--tls-auth-clients", "no"]
            own += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
            own += ["--tls-ca-cert-file", str(certificate)]
            self.url = f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={certificate}"
        self._command = [binary, *own, "--save", "", "--appendonly", "no", *options]
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Redis = Redis.from_url(self.url, socket_timeout=10)

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


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that it has signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "redis.crt", folder / "redis.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
