"""`embedstream cutover`: readers go over to another embeddings topic, or back."""

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
from embedstream.errors import UsageError

__all__ = ["cutover"]


def cutover(
    context: typer.Context,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TOPIC", help="The embeddings topic to go over to.")
    ] = None,
    alias: Annotated[str, typer.Option("--alias", help="The name that readers use.")] = "live",
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to what the alias stood for before.")
    ] = False,
    accept_lost: Annotated[
        int, typer.Option("--accept-lost", min=0, help="So many records may lose their embeddings by it.")
    ] = 0,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Let an alias stand for another topic, once nothing is missing.

    What is live is what the alias stands for; before there is one, the topics and the group of the settings.

    Example: embedstream cutover --to embeddings.bge-large-en-v1.5
    """
    if rollback == (to is not None):
        raise UsageError("give either --to TOPIC or --rollback", "`embedstream cutover --help` explains them")
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        consumer__group=group,
    ).settings
    from embedstream.cutover import cut_over, roll_back

    if to is None:
        switched = roll_back(settings, alias)
    else:
        switched = cut_over(settings, alias, to, accept_lost=accept_lost)
    report(switched.to_json(), switched.lines(), as_json)
