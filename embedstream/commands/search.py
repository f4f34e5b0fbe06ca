"""`embedstream search`: a question to one's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import DeadLetters, Documents, Embeddings, Json, Servers, load, report
from embedstream.commands.reading import AliasName, Fingerprint, resolved
from embedstream.errors import UsageError

__all__ = ["search"]


def search(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to look for, in words.")],
    where: Annotated[
        Path | None, typer.Option("--in", help="An export in Parquet (default: the embeddings topic).")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=10_000, help="How many passages.")] = 5,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    alias: AliasName = None,
    fingerprint: Fingerprint = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model (default: the one that the vectors name).")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="As `consume` was given it, if it was.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the passages nearest to a question, comparing every vector.

    Example: embedstream search "How do I catch an exception?" --in vectors/
    """
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        encoder__model=model,
        encoder__max_tokens=max_tokens,
    )
    if where is not None and (alias or embeddings_topic or fingerprint):
        raise UsageError("--in names an export", "leave --alias, --embeddings-topic and --fingerprint away")
    if not question.strip():
        raise UsageError("the question is empty", "ask something")
    from embedstream.find import find

    loaded, fingerprint = resolved(loaded, alias, embeddings_topic, fingerprint)
    named = None if loaded.source("encoder.model") == "default" else loaded.settings.encoder.model
    found = find(loaded.settings, question, top, where=where, model=named, fingerprint=fingerprint)
    report(found.to_json(), found.lines(), as_json)
