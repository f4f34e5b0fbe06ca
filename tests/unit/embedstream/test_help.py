"""What `--help` costs and teaches, for every command there is, and what is suggested for a misspelt one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from embedstream.cli import app
from tests.cli import clean_environment, run_cli

# What a command imports when it runs, and `--help` must not wait for.
HEAVY = (
    *("confluent_kafka", "fastavro", "httpx", "huggingface_hub", "numpy", "orjson", "prometheus_client"),
    *(
        "pyarrow",
        "pydantic",
        "pydantic_settings",
        "sentence_transformers",
        "structlog",
        "tokenizers",
        "torch",
    ),
    *("transformers", "yaml", "zstandard", "embedstream.settings", "schemas", "producer", "consumer"),
)


def commands(group: typer.Typer = app, *names: str) -> Iterator[tuple[str, ...]]:
    for each in group.registered_commands:
        assert each.callback is not None
        yield (*names, each.name or each.callback.__name__)
    for each_group in group.registered_groups:
        assert each_group.typer_instance is not None
        assert each_group.name is not None
        yield from commands(each_group.typer_instance, *names, each_group.name)


COMMANDS = sorted(commands())


def shown(*names: str) -> str:
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_is_there() -> None:
    assert {("doctor",), ("init",), ("consume",), ("fleet", "up"), ("dlq", "retry")} < set(COMMANDS)
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_begins_with_the_purpose_and_ends_with_an_example(names: tuple[str, ...]) -> None:
    text = shown(*names)
    usage, purpose, *rest = [" ".join(each.split()) for each in text.split("\n\n")]
    assert usage.startswith("Usage: ")
    assert purpose.endswith(".")
    assert len(purpose) <= 120
    (example,) = [each for each in rest if each.startswith("Example: ")]
    assert example.startswith(f"Example: embedstream {' '.join(names)}")


@pytest.mark.parametrize("names", [(), ("topics",), ("dlq",), ("fleet",)], ids=" ".join)
def test_no_purpose_is_cut_off_in_the_list_of_commands(names: tuple[str, ...]) -> None:
    _, heading, listed = shown(*names).partition("Commands:")
    assert heading
    assert "..." not in listed


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_example_is_understood(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed up to where the command would run."""
    ran: list[str] = []
    monkeypatch.setattr(
        typer.core.TyperCommand, "invoke", lambda self, context: ran.append(context.command_path)
    )
    (example,) = [
        " ".join(each.split()).removeprefix("Example: ")
        for each in shown(*names).split("\n\n")
        if each.strip().startswith("Example: ")
    ]
    result = CliRunner().invoke(app, shlex.split(example)[1:], prog_name="embedstream")
    assert result.exit_code == 0, result.output
    assert ran == [f"embedstream {' '.join(names)}"]


def test_help_imports_nothing_that_is_slow() -> None:
    """All helps in one process: what one of them imports shows."""
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from embedstream.cli import app\n"
        f"for names in {[list(each) for each in COMMANDS]!r}:\n"
        "    assert CliRunner().invoke(app, [*names, '--help']).exit_code == 0, names\n"
        f"print(*[each for each in {HEAVY!r} if each in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("variables", "offered"),
    [
        (
            {"_EMBEDSTREAM_COMPLETE": "complete_bash", "COMP_WORDS": "embedstream pro", "COMP_CWORD": "1"},
            "produce",
        ),
        (
            {
                "_EMBEDSTREAM_COMPLETE": "complete_bash",
                "COMP_WORDS": "embedstream consume --tok",
                "COMP_CWORD": "2",
            },
            "--token-budget",
        ),
        ({"_EMBEDSTREAM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "embedstream topics ch"}, "check"),
        (
            {
                "_EMBEDSTREAM_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_TYPER_COMPLETE_ARGS": "embedstream fleet sc",
            },
            "scale",
        ),
    ],
)
def test_a_shell_is_offered_what_begins_so(variables: dict[str, str], offered: str) -> None:
    script = "import sys; sys.argv = ['embedstream']; from embedstream.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert offered in done.stdout


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["prodcue"], "produce"),
        (["doctr"], "doctor"),
        (["topics", "chek"], "check"),
        (["consume", "--modle", "x"], "--model"),
        (["verify", "--jsn"], "--json"),
    ],
)
def test_a_misspelt_command_or_flag_suggests_the_nearest(words: list[str], suggested: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert suggested in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("[encoder]\nmodle = 'x'", "did you mean encoder.model?"),
        ("[encodr]\nmodel = 'x'", "did you mean encoder?"),
        ("[kafka]\nbootstrap_server = 'x'", "did you mean kafka.bootstrap_servers?"),
    ],
)
def test_a_misspelt_setting_suggests_the_nearest(tmp_path: Path, text: str, suggested: str) -> None:
    file = tmp_path / "embedstream.toml"
    file.write_text(text)
    done = run_cli("--config", file, "config", "show")
    assert done.returncode == 78
    assert suggested in done.stderr
