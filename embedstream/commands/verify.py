"""`embedstream verify`: the proof from the topics alone."""

from __future__ import annotations

import typer

from embedstream.commands.common import (
    DeadLetters,
    Documents,
    Embeddings,
    Exit,
    Group,
    Json,
    Servers,
    load,
    report,
)

__all__ = ["verify"]


def verify(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Prove that every record has its embeddings, or a dead letter.

    From the topics alone: nothing is missing, and nothing double.

    Example: embedstream verify --json
    """
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        consumer__group=group,
    ).settings
    from embedstream.verify import verify as run

    result = run(settings, group=settings.consumer.group)
    report(result.to_json(), result.lines(), as_json)
    if not result.ok:
        raise typer.Exit(Exit.FINDING)
