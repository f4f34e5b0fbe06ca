"""What the documentation points at is there, and its commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from embedstream.cli import app
from tests.brokers import REPOSITORY

DOCUMENTS = sorted(
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/**/*.md"))
)
# Files that the examples of CONTRIBUTING.md would make.
EXAMPLES = {"producer/csv_source.py", "embedstream/export_json_lines.py", "schemas/released/document-2.avsc"}
# What a shell does with a command's words.
SHELL = re.compile(r"\s+(#|&(?= |$)|>|\|).*")


def text(document: Path) -> str:
    return (REPOSITORY / document).read_text()


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def commands(document: Path) -> list[str]:
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL):
        if language:
            continue
        lines = block.replace("\\\n", " ").splitlines()
        found += [SHELL.sub("", line) for line in lines if line.startswith("embedstream ")]
    return found


def test_there_is_documentation() -> None:
    assert {Path("README.md"), Path("CONTRIBUTING.md"), Path("docs/architecture.md")} < set(DOCUMENTS)
    assert len(commands(Path("README.md"))) > 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_its_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, fragment = target.partition("#")
        path = (REPOSITORY / document.parent / name) if name else REPOSITORY / document
        assert path.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_files_that_it_names_are_there(document: Path) -> None:
    named = set(
        re.findall(
            r"`((?:embedstream|producer|consumer|schemas|tests|deploy|docs)/[\w./-]+)`", text(document)
        )
    )
    assert {name for name in named - EXAMPLES if not (REPOSITORY / name).exists()} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_its_commands_are_understood(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(
        typer.core.TyperCommand, "invoke", lambda _, context: ran.append(context.command_path)
    )
    given = commands(document)
    for line in given:
        result = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="embedstream")
        assert result.exit_code == 0, (line, result.output)
    assert len(ran) == len(given)
