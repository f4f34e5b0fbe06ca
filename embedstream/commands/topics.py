"""`embedstream topics create|check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import (
    CommandFirst,
    DeadLetters,
    Documents,
    Embeddings,
    Exit,
    Json,
    Servers,
    load,
    report,
)
from embedstream.errors import UsageError

__all__ = ["app"]

app = typer.Typer(cls=CommandFirst, help="Make and check the three topics.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, help="Two to four times the most daemons ever.")
    ] = 8,
    replication: Annotated[
        int | None, typer.Option("--replication", min=1, help="Copies (default: the broker's own).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the topics that are missing, so that they keep everything.

    Example: embedstream topics create --partitions 16
    """
    kafka = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    ).settings.kafka
    from embedstream.topics import create_topics

    made = create_topics(kafka, partitions, replication)
    told = {
        "created": made.created,
        "existing": made.existing,
        "problems": [str(each) for each in made.problems],
    }
    lines = [f"made {name}" for name in made.created]
    lines += [f"{name} was there already" for name in made.existing]
    report(told, [*lines, *map(str, made.problems)], as_json)
    if any(each.serious for each in made.problems):
        raise typer.Exit(Exit.FINDING)


@app.command("check")
def check(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    estimate: Annotated[
        Path | None, typer.Option("--estimate", help="What `embedstream estimate --json` printed.")
    ] = None,
    disk: Annotated[str | None, typer.Option("--disk", help="Free disk of each broker: 500GB.")] = None,
    as_json: Json = False,
) -> None:
    """Say what about the topics would lose data or stop a daemon.

    Example: embedstream topics check --estimate estimate.json --disk 500GB
    """
    needed = None if estimate is None else _needed(estimate)
    if (estimate is None) != (disk is None):
        raise UsageError("--estimate and --disk go together", "give both, or neither")
    kafka = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    ).settings.kafka
    from embedstream.topics import check_topics

    problems = check_topics(kafka, needed, 0 if disk is None else _size(disk))
    lines = [str(each) for each in problems] or ["the topics are as they should be"]
    serious = any(each.serious for each in problems)
    report({"ok": not serious, "problems": [str(each) for each in problems]}, lines, as_json)
    if serious:
        raise typer.Exit(Exit.FINDING)


def _needed(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text("utf-8"))["disk_bytes"]
        return {name: float(found[name]) for name in ("documents", "all")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"--estimate {path} is no estimate", "make it with `embedstream estimate --json`"
        ) from None


def _size(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise UsageError(f"--disk {text!r} is no size", "give it as 500GB") from None
