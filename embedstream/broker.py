"""The embedded Kafka broker: `noida-db`, one small binary from PyPI, on 127.0.0.1 only.

    with EmbeddedBroker(Path("data")) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})

It is for trying the system: it holds everything in memory and never times out a dead group member or a hung
transaction. What is written survives a restart on the same folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.kafka import make_admin
from embedstream.settings import KafkaSettings

__all__ = ["EmbeddedBroker", "ends_with_parent", "run_broker"]

_LISTENS = re.compile(r"^\s*kafka\s+(127\.0\.0\.1:\d+)\s*$", re.MULTILINE)
# PR_SET_PDEATHSIG is 1; the parent may have died before the call, hence the look at its pid. A launcher,
# because Popen's preexec_fn can deadlock in a process that has threads.
_LAUNCHER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[1]));"
    "os.getppid() == int(sys.argv[2]) or os._exit(1); os.execvp(sys.argv[3], sys.argv[3:])"
)


def ends_with_parent(command: Sequence[str], with_signal: signal.Signals = signal.SIGTERM) -> list[str]:
    """Return `command` so wrapped that Linux sends it `with_signal` when the thread that starts it ends.

    So nothing is left running after a `kill -9` of this process. The process id is the command's own, because
    the wrapper becomes the command. On other systems the command is returned as it is.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(int(with_signal)), str(os.getpid()), *command]


def _binary() -> Path:
    """Return the path of the broker's binary, made executable.

    Raises:
        ConfigError: The package is not installed, or holds no binary that can be run.
    """
    spec = importlib.util.find_spec("noida_db")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the embedded broker is not installed",
            "pip install 'embedstream[embedded]', or name your own broker with kafka.bootstrap_servers",
        )
    binary = Path(spec.submodule_search_locations[0]) / "noida-db"
    try:
        # A wheel may be unpacked without the executable bit.
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
    except OSError as error:
        raise ConfigError(
            f"the embedded broker can't be run: {binary}: {error.strerror}",
            "install the package noida-db again, or name your own broker with kafka.bootstrap_servers",
        ) from None
    return binary


class EmbeddedBroker:
    """One embedded broker on 127.0.0.1, a child of this process; a context manager.

    Start it from a thread that lives as long as the broker is to live (see `ends_with_parent`).

    Attributes:
        bootstrap: `127.0.0.1:PORT`, empty before `start()`.
        pid: The broker's process id, None while it does not run.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.bootstrap = ""
        self._data_dir = data_dir
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The broker's process id, None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout: float = 30.0) -> None:
        """Start the broker and return when a Kafka client gets metadata from it.

        Args:
            timeout: In seconds.

        Raises:
            ConfigError: Not installed, the port is in use, or the data folder can't be used.
            ServiceUnavailableError: It did not come up in time.
        """
        binary = _binary()
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the broker's data folder {self._data_dir} can't be used: {error.strerror}",
                "name a folder that can be written to",
            ) from None
        command = [str(binary), "start", "--only", "kafka", "--host", "127.0.0.1"]
        command += ["--data-dir", str(self._data_dir), "--kafka-port", str(self._port)]
        # Its output goes to a nameless file: nobody has to drain a pipe, the loader's line on a weak symbol
        # (on glibc older than 2.39) stays out of sight, and what it says about a failure can be read.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        try:
            # A session of its own: Ctrl-C in a terminal must not end the broker before its clients.
            self._process = subprocess.Popen(
                ends_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._wait_until_ready(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Wait until the broker ends by itself or by a signal; return its exit status."""
        return self._process.wait() if self._process is not None else 0

    def stop(self, timeout: float = 10.0) -> None:
        """End the broker; its data stays. By SIGKILL if it takes longer than `timeout` seconds.

        Calling it again does nothing.
        """
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def _said(self) -> str:
        """Return what the broker has written so far."""
        if self._output is None:
            return ""
        # pread leaves the file's position alone, which the broker shares.
        return os.pread(self._output.fileno(), 1 << 16, 0).decode("utf-8", "replace")

    def _wait_until_ready(self, deadline: float) -> None:
        admin: AdminClient | None = None
        while time.monotonic() < deadline:
            if self.pid is None:
                raise self._start_error()
            if admin is None:
                listens = _LISTENS.search(self._said())
                if listens is None:
                    time.sleep(0.01)
                    continue
                self.bootstrap = listens[1]
                admin = make_admin(KafkaSettings(bootstrap_servers=self.bootstrap))
            with contextlib.suppress(KafkaException):
                admin.list_topics(timeout=1.0)
                return
        raise ServiceUnavailableError(
            "the embedded broker did not answer in time", "try again, or name your own broker"
        )

    def _start_error(self) -> ConfigError | ServiceUnavailableError:
        """Return the error for a broker that ended while it started, from what it said."""
        said = [line.removeprefix("error:").strip() for line in self._said().splitlines() if "error:" in line]
        reason = said[0] if said else "it said nothing"
        if "already in use" in reason:
            return ConfigError(
                f"port {self._port} on 127.0.0.1 is in use",
                "stop what listens there, or choose another --port",
            )
        if "already running" in reason:
            return ConfigError(
                f"an embedded broker already runs on the data folder {self._data_dir}",
                "stop it, or choose another --data-dir",
            )
        return ServiceUnavailableError(
            f"the embedded broker did not start on port {self._port}: {reason}", "choose another --port"
        )


def run_broker(port: int, data_dir: Path | None = None) -> None:
    """Run the embedded broker in the foreground until SIGINT or SIGTERM.

    Prints one line with the bootstrap address on stdout once a client can connect.

    Args:
        port: On 127.0.0.1; 0 takes any free one.
        data_dir: Where the topics are kept; None for a folder that is removed at the end.

    Raises:
        ConfigError: As `EmbeddedBroker.start`.
        ServiceUnavailableError: The broker did not come up, or ended by itself.
    """
    # Both signals become KeyboardInterrupt, also SIGINT where a shell started this in the background.
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with contextlib.ExitStack() as stack:
            if data_dir is None:
                scratch = tempfile.TemporaryDirectory(
                    prefix="embedstream-broker-", ignore_cleanup_errors=True
                )
                data_dir = Path(stack.enter_context(scratch))
            broker = stack.enter_context(EmbeddedBroker(data_dir, port))
            print(f"Kafka broker on {broker.bootstrap} (Ctrl-C ends it)", flush=True)
            status = broker.wait()
            raise ServiceUnavailableError(
                f"the embedded broker ended by itself with status {status}",
                "start it again; its data is kept",
            )
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
