"""Apache Kafka with SASL_SSL, SCRAM and ACLs, and certificates that are made for it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings
from tests.brokers import REPOSITORY, ApacheCluster, free_ports
from tests.kafka import wait_until

__all__ = [
    "PASSWORD",
    "ROLES",
    "Acl",
    "Authority",
    "SecureKafka",
    "counted_connections",
    "documented_acls",
    "documented_settings",
    "secure_kafka",
]

ROLES = ("producer", "consumer", "reader", "operator")
PASSWORD = "S3cret-of-{role}-93c1"
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}
_RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}


class Authority:
    """Signs certificates; `ca` is the file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests of embedstream")])
        self.ca.write_bytes(self._signed(self._name, self._key.public_key(), None, 1))

    def certificate(self, file: str, address: str = "127.0.0.1", *, days: int = 1) -> Path:
        """A PEM file with key and certificate for an address; with negative `days`, expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        path = self.folder / file
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._signed(name, key.public_key(), address, days)
        )
        return path

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, address: str | None, days: int
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=10))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
        )
        if address is not None:
            names = [x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Acl:
    """One right of a role, as the script gives it."""

    role: str
    resource: str
    name: str
    operation: str
    prefixed: bool

    def __str__(self) -> str:
        return f"{self.role} {self.operation} {self.resource[2:]} {self.name}"

    def _parts(self) -> tuple[Any, ...]:
        pattern = ResourcePatternType.PREFIXED if self.prefixed else ResourcePatternType.LITERAL
        return (
            _RESOURCES[self.resource],
            self.name,
            pattern,
            f"User:embedstream-{self.role}",
            "*",
            _OPERATIONS[self.operation],
            AclPermissionType.ALLOW,
        )

    @property
    def binding(self) -> AclBinding:
        return AclBinding(*self._parts())

    @property
    def filter(self) -> AclBindingFilter:
        return AclBindingFilter(*self._parts())


def documented_acls(folder: Path, **job: str) -> list[Acl]:
    """What `deploy/kafka/acls.sh` gives: it is run with a program that notes what Kafka's would be told.

    Args:
        folder: For the notes.
        job: The script's variables: topics and group, where they are not the defaults.
    """
    notes = folder / "acls.jsonl"
    program = f"import json,sys; open({str(notes)!r},'a').write(json.dumps(sys.argv[1:])+chr(10))"
    script = folder / "kafka-acls.sh"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    script.chmod(0o755)
    environment = dict(os.environ) | {"KAFKA_ACLS": str(script)} | job
    command = ["sh", str(REPOSITORY / "deploy" / "kafka" / "acls.sh"), "127.0.0.1:9092"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    found = []
    for line in notes.read_text().splitlines():
        given = json.loads(line)
        (resource,) = [each for each in given if each in _RESOURCES]
        values = dict(pairwise(given))
        found.append(
            Acl(
                values["--allow-principal"].removeprefix("User:embedstream-"),
                resource,
                values[resource],
                values["--operation"],
                values.get("--resource-pattern-type") == "prefixed",
            )
        )
    notes.unlink()
    return found


def documented_settings(here: Mapping[str, str]) -> dict[str, str]:
    """The settings of `deploy/kafka/server.properties`, with what is in it replaced by what is `here`."""
    text = (REPOSITORY / "deploy" / "kafka" / "server.properties").read_text()
    for theirs, ours in here.items():
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def counted_connections(to: str) -> Iterator[tuple[str, list[float]]]:
    """An address that leads to another one, and when each connection was made there."""
    made: list[float] = []
    host, _, port = to.rpartition(":")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            made.append(time.monotonic())
            with socket.create_connection((host, int(port))) as upstream:
                back = threading.Thread(target=pump, args=(upstream, self.request), daemon=True)
                back.start()
                pump(self.request, upstream)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", made
        finally:
            server.shutdown()
            thread.join()


class SecureKafka:
    """A broker whose second listener asks for TLS, a password and rights."""

    def __init__(self, bootstrap: str, plain: str, admin: AdminClient, ca: Path) -> None:
        self.bootstrap = bootstrap
        self.plain = plain
        self.admin = admin
        self.ca = ca

    def env(self, role: str, password: str | None = None) -> dict[str, str]:
        """The variables with which a role connects."""
        client = "EMBEDSTREAM_KAFKA__CLIENT__"
        return {
            "EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            f"{client}SECURITY_PROTOCOL": "SASL_SSL",
            f"{client}SASL_MECHANISM": "SCRAM-SHA-512",
            f"{client}SASL_USERNAME": f"embedstream-{role}",
            f"{client}SASL_PASSWORD": password or PASSWORD.format(role=role),
            f"{client}SSL_CA_LOCATION": str(self.ca),
        }

    def allow(self, acls: list[Acl]) -> None:
        for future in self.admin.create_acls([each.binding for each in acls]).values():
            future.result()
        wait_until(lambda: all(self._holds(each) for each in acls), 20.0, "the rights did not arrive")

    def take_away(self, acl: Acl) -> None:
        for future in self.admin.delete_acls([acl.filter]).values():
            assert future.result()
        wait_until(lambda: not self._holds(acl), 20.0, "the right is still there")

    def _holds(self, acl: Acl) -> bool:
        return bool(self.admin.describe_acls(acl.filter).result())


@contextmanager
def secure_kafka(home: Path, folder: Path, certificate: Path, ca: Path) -> Iterator[SecureKafka]:
    """A node with the documented settings, users for all roles and no rights.

    Its plain listener on loopback is the administrator's.
    """
    (port,) = free_ports(1)
    cluster = ApacheCluster(home, folder / "kafka")
    (node,) = cluster.nodes
    client, controller = node.ports
    here = {
        "127.0.0.1:9092": f"127.0.0.1:{client}",
        "127.0.0.1:9094": f"127.0.0.1:{controller}",
        "0.0.0.0:9093": f"127.0.0.1:{port}",
        "kafka.example.org:9093": f"127.0.0.1:{port}",
        "/etc/kafka/BROKER.pem": str(certificate),
        "/etc/kafka/CA.pem": str(ca),
    }
    for name, value in documented_settings(here).items():
        # The cluster of a test has a quorum and a folder of its own.
        if not name.startswith(("controller.quorum.", "log.dirs", "node.id")):
            node.settings[name] = value
    node.settings["group.initial.rebalance.delay.ms"] = "0"
    with cluster:
        admin = make_admin(KafkaSettings(bootstrap_servers=node.bootstrap))
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        users: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(f"embedstream-{role}", info, PASSWORD.format(role=role).encode())
            for role in ROLES
        ]
        for future in admin.alter_user_scram_credentials(users).values():
            future.result()
        yield SecureKafka(f"127.0.0.1:{port}", node.bootstrap, admin, ca)
