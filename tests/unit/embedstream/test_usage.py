"""Command lines that make no sense are refused in one line before anything is connected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import clean_environment

CASES: list[tuple[list[str], int, str]] = [
    ([], 2, "no command: `embedstream --help` lists them"),
    (["bench", "--corpus-tokens", "0"], 2, "--corpus-tokens is 0: give more than 0"),
    (["dlq", "list", "--reason", "sadness"], 2, "--reason sadness is none: there are: "),
    (["dlq", "list", "--since", "yesterday"], 2, "--since yesterday is no time: "),
    (["fleet", "scale", "--", "-1"], 2, "N is -1: give 0 or more"),
    (["produce", ".", "--ledger", "x", "--no-ledger"], 2, "--ledger and --no-ledger exclude each other"),
    (["produce", "absent"], 2, "absent can't be read: No such file or directory: name one that exists"),
    (["produce", "/dev/null"], 2, "/dev/null is neither a file nor a folder: name a file or a folder"),
    (["produce", "s3://"], 2, "s3:// names no bucket: write s3://BUCKET/PREFIX"),
    (
        ["export", "--to", "x", "--alias", "live", "--fingerprint", "f"],
        2,
        "--alias stands for a topic and a model",
    ),
    (["export", "--to", "qdrant://127.0.0.1"], 2, "is no place to export to: write a path, qdrant://"),
    (["replay"], 2, "--model is missing: name the model to embed with"),
    (["replay", "--model", "m", "--gpu", "RTX 4090"], 2, "--gpu is for --dry-run: "),
    (["replay", "--model", "m", "--output", "a b"], 2, "--output 'a b' can't be a topic: "),
    (["search", "q", "--in", "x", "--alias", "live"], 2, "--in names an export: leave --alias"),
    (["search", " "], 2, "the question is empty: ask something"),
    (["status", "--watch", "--json"], 2, "--watch and --json exclude each other: leave one out"),
    (
        ["status", "--daemon", "ftp://x"],
        2,
        "--daemon 'ftp://x' is no address: give HOST:PORT or an http(s) URL",
    ),
    (["topics", "check", "--disk", "1GB"], 2, "--estimate and --disk go together: give both, or neither"),
    (
        ["topics", "check", "--disk", "much", "--estimate", "e.json"],
        2,
        "--disk 'much' is no size: give it as 500GB",
    ),
    (["cutover"], 2, "give either --to TOPIC or --rollback"),
    (["estimate", ".", "--prices", "no.json"], 78, "--prices no.json is not JSON"),
    (["estimate", ".", "--price", "1"], 2, "--price without --gpu: name the GPU that it is the price of"),
    (["consume", "--precision", "fp8"], 78, "encoder.precision = 'fp8' (from --precision)"),
    (["consume", "--delivery", "maybe"], 78, "consumer.delivery = 'maybe' (from --delivery)"),
    (["--config", "absent.toml", "consume"], 78, "absent.toml can't be read"),
    (["--config", "wrong.toml", "config", "show"], 78, "wrong.toml is not TOML"),
    (["--config", "client.toml", "topics", "check"], 78, "correct or remove the property"),
]

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from embedstream.cli import app
from embedstream.errors import EmbedstreamError
told = []
for words in json.load(sys.stdin):
    error = CliRunner().invoke(app, words).exception
    told.append([error.exit_code, str(error)] if isinstance(error, EmbedstreamError) else [-1, repr(error)])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """All of them in one process: starting one takes longer than what is tested."""
    folder: Path = tmp_path_factory.mktemp("usage")
    (folder / "e.json").write_text(json.dumps({"disk_bytes": {"documents": 1, "all": 2}}))
    (folder / "no.json").write_text("{")
    (folder / "wrong.toml").write_text("[kafka")
    (folder / "client.toml").write_text("[kafka.client]\n'no.such.property' = '1'\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([words for words, _, _ in CASES]),
        cwd=folder,
        env=clean_environment({"PYTHONPATH": ":".join(sys.path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[tuple[int, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=lambda number: " ".join(CASES[number][0]) or "nothing"
)
def test_it_is_one_line_that_names_what_is_wrong(told: list[tuple[int, str]], case: int) -> None:
    words, code, text = CASES[case]
    assert told[case][0] == code, (words, told[case])
    assert text in told[case][1]
    assert "\n" not in told[case][1]
