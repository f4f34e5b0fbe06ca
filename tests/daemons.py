"""Consumer daemons as processes, on topics of one test, with the hash of a passage for its vector."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedstream.broker import ends_with_parent
from tests.cli import clean_environment, run_cli
from tests.kafka import Topics

__all__ = ["Daemon", "Daemons", "verified"]


@dataclass
class Daemon:
    """A daemon's process and its log."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def log(self) -> str:
        return self.path.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        """What it said at last, which is the error that ended it."""
        lines = self.log.splitlines()
        return lines[-1] if lines else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in its log."""
        lines = [line for line in self.log.splitlines() if f'"event": "{name}"' in line]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def refused(self, timeout: float = 60.0) -> str:
        """The one line with which it ended with 78."""
        assert self.wait(timeout) == 78, self.log
        return self.only_line

    @property
    def only_line(self) -> str:
        """Its last line, the only one that is no event."""
        assert "Traceback" not in self.log
        plain = [line for line in self.log.splitlines() if not line.startswith("{")]
        assert plain == [self.last_line], self.log
        return self.last_line


class Daemons:
    """Starts daemons; a context manager that ends those that still run, and prints all logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            if each.process.poll() is None:
                each.process.kill()
            each.wait()
            print(each.path.name, each.log, sep="\n")

    def start(
        self,
        topics: Topics,
        *flags: str,
        env: Mapping[str, str] | None = None,
        module: str = "tests.hash_encoder",
        **encoder: object,
    ) -> Daemon:
        """Starts `consume` in the group of the topics' name.

        Args:
            topics: Of the test.
            flags: Of `consume`, after those for topics and group.
            env: Further variables.
            module: What runs; it takes the flags of `consume`.
            encoder: Of the HashEncoder.
        """
        own = [*topics.flags, "--metrics-port", "-1", "--group", topics.documents]
        return self._launch([*own, *flags], env or {}, module, encoder)

    def replay(
        self,
        topics: Topics,
        output: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        **encoder: object,
    ) -> Daemon:
        """Starts `replay` into `output` beside the daemons of `start`.

        Args:
            topics: Of the test.
            output: The topic to write to.
            flags: Of `replay`, after those for the topics.
            env: Further variables.
            encoder: Of the HashEncoder.
        """
        own = ["--bootstrap-servers", topics.bootstrap, "--documents-topic", topics.documents]
        own += ["--metrics-port", "-1", "--output", output, "--model", "hash"]
        live = {"HASH_COMMAND": "replay", "EMBEDSTREAM_KAFKA__EMBEDDINGS_TOPIC": topics.embeddings}
        return self._launch([*own, *flags], {**live, **(env or {})}, "tests.hash_encoder", encoder)

    def command(self, words: Sequence[str], *flags: str, **encoder: object) -> Daemon:
        """Starts an embedstream command and its flags, as somebody was told to."""
        name, *own = words
        return self._launch([*own, *flags], {"HASH_COMMAND": name}, "tests.hash_encoder", encoder)

    def _launch(
        self, flags: Sequence[str], env: Mapping[str, str], module: str, encoder: Mapping[str, object]
    ) -> Daemon:
        environment = clean_environment({"HASH_ENCODER": json.dumps(encoder), **env})
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        path = self._folder / f"daemon-{len(self._started)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                ends_with_parent([sys.executable, "-m", module, *flags], signal.SIGKILL),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        daemon = Daemon(process, path)
        self._started.append(daemon)
        return daemon


def verified(topics: Topics) -> bool:
    """Whether `verify` finds nothing."""
    done = run_cli("verify", *topics.flags, "--group", topics.documents, "--json")
    print(done.stdout, done.stderr)
    return done.returncode == 0
