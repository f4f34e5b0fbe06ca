"""The README's first commands, as they stand there; only the broker's port is another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedstream.broker import ends_with_parent
from tests.brokers import REPOSITORY, free_ports
from tests.cli import clean_environment

CORPUS = {
    "harbour.md": "# The harbour\n\nThe harbour was built by the fishermen in a single summer.\n",
    "bread.md": "# Bread\n\nBread needs flour, water, salt and time. The baker gets up at three.\n",
    "stars.json": '{"content": "At night the telescope is opened, and stars are counted.", "id": "stars"}',
}


def quick_start() -> str:
    _, found, rest = (
        (REPOSITORY / "README.md").read_text().partition("<!-- quick start: a test runs this -->")
    )
    assert found, "the README has no quick start"
    return rest.partition("```\n")[2].partition("```")[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_of_the_readme_works(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, text in CORPUS.items():
        (corpus / name).write_text(text)
    (port,) = free_ports(1)
    program = tmp_path / "bin" / "embedstream"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m embedstream "$@"\n')
    program.chmod(0o755)
    commands = quick_start()
    assert commands.count("\n") == 8
    script = commands.replace("embedstream broker &", f"embedstream broker --port {port} &")
    assert script != commands
    # What the shell has started is ended with it, whatever fails.
    script = f"set -e\ntrap 'kill $(jobs -p)' EXIT\n{script}"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        ends_with_parent([bash, "-c", script]),
        cwd=tmp_path,
        env=clean_environment(
            {
                "PATH": f"{program.parent}:/usr/bin:/bin",
                "PYTHONPATH": ":".join(sys.path),
                "EMBEDSTREAM_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
                # Another daemon of this machine may have the default.
                "EMBEDSTREAM_METRICS__PORT": "0",
            }
        ),
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrote embedstream.toml" in done.stdout
    assert "0 failed" in done.stdout
    assert "harbour" in done.stdout
