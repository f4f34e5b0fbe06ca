"""Real Apache Kafka for tests: KRaft nodes on 127.0.0.1 that can be killed, frozen and started again.

KAFKA_HOME names a distribution as published (`bin/kafka-server-start.sh`) or a folder with a `broker` script
(`broker DIR NODE_ID PORT:CONTROLLER_PORT VOTERS [key=value ...]`); else `../shared/kafka` is looked at.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest
from confluent_kafka import KafkaException

from embedstream.broker import ends_with_parent
from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings
from tests.kafka import wait_until

__all__ = [
    "CLASS_ARCHIVE",
    "ApacheCluster",
    "ApacheNode",
    "BrokerHandle",
    "NoKafkaError",
    "a_broker",
    "find_kafka",
    "free_ports",
    "on_apache",
]

on_apache = pytest.mark.parametrize("broker", [pytest.param("apache", marks=pytest.mark.slow)], indirect=True)
"""For a test that the embedded broker is no place for, or that takes long on it."""

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_KAFKA = REPOSITORY.parent / "shared" / "kafka"
SERVER_START = Path("bin") / "kafka-server-start.sh"
# Made by `python -m tests.class_archive`; where it is, a node starts in three seconds instead of five.
CLASS_ARCHIVE = REPOSITORY / ".venv" / "kafka-classes.jsa"
CLUSTER_ID = "ZW1iZWRzdHJlYW0tdGVzdA"
# Below 32768, from where on Linux gives ports to who asks for any: a client's connection may have one of
# those before a server of a test gets to it.
PORTS = range(10_000, 32_768)
# Of the machine's own: two runs with the same seed must not want the same ports.
_RANDOM = random.SystemRandom()
_HELD: list[socket.socket] = []


@dataclass(frozen=True)
class BrokerHandle:
    """A broker that is up."""

    bootstrap: str
    name: str


class NoKafkaError(Exception):
    """No Apache Kafka was found; the message says what to set."""


def find_kafka() -> Path:
    """Return the folder of an Apache Kafka that can be started; NoKafkaError says what is missing."""
    named = os.environ.get("KAFKA_HOME")
    home = Path(named).resolve() if named else SHARED_KAFKA
    if not (home / "broker").is_file() and not (home / SERVER_START).is_file():
        where = f"KAFKA_HOME={named} holds" if named else "KAFKA_HOME is not set and ../shared/kafka holds"
        raise NoKafkaError(
            f"{where} no Apache Kafka: set KAFKA_HOME to an unpacked distribution (4.0 or later)"
        )
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise NoKafkaError("Apache Kafka needs Java 17 or later: install it, or set JAVA_HOME")
    return home


@contextmanager
def a_broker(bootstrap: str | None) -> Iterator[str]:
    """The broker that was named, or an Apache Kafka of one node as long as the block lasts; its address."""
    if bootstrap is not None:
        yield bootstrap
        return
    with TemporaryDirectory() as folder, ApacheCluster(find_kafka(), Path(folder)) as cluster:
        yield cluster.bootstrap


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 for servers of this process; until it ends, no other call gets the same ones.

    Drawn at random and held, since other workers and processes of a test look for theirs at the same time,
    and a server takes seconds to come to its own.
    """
    found: list[int] = []
    while len(found) < count:
        port, one = _RANDOM.choice(PORTS), socket.socket()
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            one.close()
            continue
        # From here on a server may listen there beside it, as all do that may start again on the same port;
        # another bind like the one above is refused.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _HELD.append(one)
        found.append(port)
    return found


class ApacheNode:
    """One node, broker and controller; started again on the same folder, it goes on with its data.

    Attributes:
        ports: The client's and the controller's.
        settings: Of the broker, as they are when it starts.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        number: int,
        ports: tuple[int, int],
        voters: str,
        settings: Mapping[str, str],
    ) -> None:
        self.number = number
        self.bootstrap = f"127.0.0.1:{ports[0]}"
        self._home = home
        self._folder = folder
        self.ports = ports
        self._voters = voters
        self.settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process; `ApacheCluster.wait_ready` waits until it answers."""
        assert self.pid is None, f"node {self.number} runs already"
        self._folder.mkdir(parents=True, exist_ok=True)
        script = self._home / "broker"
        command = self._script(script) if script.is_file() else self._distribution()
        with (self._folder / "node.log").open("ab") as log:
            self._process = subprocess.Popen(
                ends_with_parent(command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self, timeout: float = 60.0) -> None:
        """Shut it down in order: leaders move first."""
        self._end(signal.SIGTERM, timeout)

    def pause(self) -> None:
        """Freeze it; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Let it write not one byte more to any file, until it is started again; it ends by itself then."""
        assert self.pid is not None
        _, most = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, most))

    def log(self) -> str:
        """Return the end of what it has logged."""
        path = self._folder / "node.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"node {self.number} does not run: {self.log()}"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals, timeout: float = 30.0) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def _script(self, script: Path) -> list[str]:
        client, controller = self.ports
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        return [
            str(script),
            str(self._folder),
            str(self.number),
            f"{client}:{controller}",
            self._voters,
            *settings,
        ]

    def _distribution(self) -> list[str]:
        properties = self._folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self._folder / "data" / "meta.properties").exists():
            storage = str(self._home / "bin" / "kafka-storage.sh")
            command = [storage, "format", "--cluster-id", CLUSTER_ID, "--config", str(properties)]
            done = subprocess.run(
                command, env=self._environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"kafka-storage.sh format failed: {done.stdout}{done.stderr}"
        return [str(self._home / SERVER_START), str(properties)]

    def _properties(self) -> dict[str, str]:
        client, controller = self.ports
        nodes = len(self._voters.split(","))
        copies, in_sync = str(min(nodes, 3)), "2" if nodes > 1 else "1"
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": self._voters.replace("@", "@127.0.0.1:"),
            "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{client}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            **self.settings,
        }

    def _environment(self) -> dict[str, str]:
        mine = {
            "LOG_DIR": str(self._folder / "logs"),
            "KAFKA_HEAP_OPTS": "-Xms64m -Xmx384m",
            "KAFKA_JVM_PERFORMANCE_OPTS": "-server -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        }
        if CLASS_ARCHIVE.exists():
            # Java does without where it does not fit.
            mine["JAVA_TOOL_OPTIONS"] = f"-XX:SharedArchiveFile={CLASS_ARCHIVE}"
        return mine | dict(os.environ)


class ApacheCluster:
    """Nodes 1, 2, 3 ... as one cluster; a context manager that leaves nothing running."""

    def __init__(
        self, home: Path, folder: Path, nodes: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        ports = free_ports(2 * nodes)
        pairs = list(zip(ports[:nodes], ports[nodes:], strict=True))
        voters = ",".join(f"{number}@{pair[1]}" for number, pair in enumerate(pairs, start=1))
        self.nodes = [
            ApacheNode(home, folder / str(number), number, pair, voters, settings or {})
            for number, pair in enumerate(pairs, start=1)
        ]

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs; the data is not needed any more."""
        for node in self.nodes:
            node.kill()

    def wait_ready(self, timeout: float = 90.0) -> None:
        """Wait until a client learns of every node that was started."""
        admin = make_admin(KafkaSettings(bootstrap_servers=self.bootstrap))
        started = [node for node in self.nodes if node.pid is not None]

        def all_known() -> bool:
            for node in started:
                assert node.pid is not None, f"node {node.number} ended: {node.log()}"
            try:
                return len(admin.list_topics(timeout=1.0).brokers) >= len(started)
            except KafkaException:
                return False

        wait_until(all_known, timeout, "Apache Kafka did not come up")
