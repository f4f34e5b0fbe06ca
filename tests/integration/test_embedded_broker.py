"""The embedded broker as a process: how it starts, what it says when it can't, and that nothing is left."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from embedstream.broker import EmbeddedBroker
from embedstream.errors import ConfigError
from embedstream.kafka import make_producer
from embedstream.settings import KafkaSettings
from tests.brokers import free_ports
from tests.cli import clean_environment, run_cli
from tests.kafka import make_topics, read_all, wait_until


def run_broker_process(folder: Path, port: int = 0) -> subprocess.Popen[str]:
    """Run `embedstream broker` in the foreground."""
    return subprocess.Popen(
        [sys.executable, "-m", "embedstream", "broker", "--port", str(port), "--data-dir", str(folder)],
        env=clean_environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address(process: subprocess.Popen[str]) -> str:
    """Return the bootstrap address from the one line that the foreground broker prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Kafka broker on 127.0.0.1:"), line
    return line.split()[3]


def listeners(pid: int) -> list[str]:
    found = psutil.Process(pid).net_connections("tcp")
    return [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]


def test_it_listens_on_loopback_alone_and_stop_leaves_nothing(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    with broker:
        pid = broker.pid
        assert pid is not None
        assert set(listeners(pid)) == {"127.0.0.1"}
    assert broker.pid is None
    assert not psutil.pid_exists(pid)
    broker.stop()


def test_records_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        topics = make_topics(broker.bootstrap, 1)
        producer = make_producer(topics.kafka)
        producer.produce(topics.documents, b"first")
        assert producer.flush(30.0) == 0
    with EmbeddedBroker(tmp_path) as broker:
        producer = make_producer(KafkaSettings(bootstrap_servers=broker.bootstrap))
        producer.produce(topics.documents, b"second")
        assert producer.flush(30.0) == 0
        assert broker.pid is not None
        killed = psutil.Process(broker.pid)
        # It writes what changed to disk a moment later, bytes as a list of numbers.
        record = ",".join(str(byte) for byte in b"second")
        saved = tmp_path / "kafka.json"
        wait_until(lambda: record in saved.read_text().replace(" ", ""), message="the broker saves nothing")
        killed.kill()
        assert broker.wait() == -signal.SIGKILL
    with EmbeddedBroker(tmp_path) as broker:
        values = [record.value() for record in read_all(broker.bootstrap, topics.documents)]
        assert values == [b"first", b"second"]


def test_a_port_in_use_is_one_line_with_the_mend(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        broker = EmbeddedBroker(tmp_path, port)
        with pytest.raises(ConfigError, match=rf"port {port} on 127\.0\.0\.1 is in use.*--port"):
            broker.start()
    assert broker.pid is None


def test_a_data_folder_in_use_is_one_line_with_the_mend(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path), pytest.raises(ConfigError, match=r"already runs on the data folder"):
        EmbeddedBroker(tmp_path).start()


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/data can't be used: Not a directory"):
        EmbeddedBroker(tmp_path / "file" / "data").start()


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"embedstream\[embedded\]"):
        EmbeddedBroker(tmp_path).start()


def test_a_killed_parent_takes_the_broker_with_it(tmp_path: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from embedstream.broker import EmbeddedBroker
        broker = EmbeddedBroker(Path({str(tmp_path)!r}))
        broker.start()
        print(broker.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        assert broker.is_running()
        parent.kill()
        parent.wait()
    wait_until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_broker_ends_with_0_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with run_broker_process(tmp_path) as process:
        bootstrap = address(process)
        make_topics(bootstrap, 1)
        (broker,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        said, complained = process.communicate(timeout=30)
        assert (process.returncode, said, complained) == (0, "", "")
    assert not broker.is_running()


def test_the_foreground_broker_takes_the_port_that_is_asked_for(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with run_broker_process(tmp_path, port) as process:
        assert address(process) == f"127.0.0.1:{port}"
        process.terminate()


def test_the_foreground_broker_says_so_when_it_dies(tmp_path: Path) -> None:
    with run_broker_process(tmp_path) as process:
        address(process)
        (broker,) = psutil.Process(process.pid).children()
        broker.kill()
        _, complained = process.communicate(timeout=30)
    assert process.returncode == 69
    assert "the embedded broker ended by itself" in complained
    assert complained.count("\n") == 1


def test_the_foreground_broker_refuses_a_port_in_use_in_one_line(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "first") as first:
        port = first.bootstrap.split(":")[1]
        done = run_cli("broker", "--port", port, "--data-dir", tmp_path / "second")
    assert (done.returncode, done.stdout) == (78, "")
    mend = "stop what listens there, or choose another --port"
    assert done.stderr == f"embedstream: port {port} on 127.0.0.1 is in use: {mend}\n"
