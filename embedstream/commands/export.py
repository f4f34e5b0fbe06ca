"""`embedstream export`: the newest version of each document, to Parquet or Qdrant."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from embedstream.commands.common import DeadLetters, Documents, Embeddings, Json, Servers, load, report
from embedstream.commands.reading import AliasName, Fingerprint, resolved

__all__ = ["export"]


def export(
    context: typer.Context,
    to: Annotated[
        str, typer.Option("--to", metavar="PATH", help="FILE.parquet, a folder, or qdrant://HOST:PORT/NAME.")
    ],
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    alias: AliasName = None,
    fingerprint: Fingerprint = None,
    rows_per_file: Annotated[
        int, typer.Option("--rows-per-file", min=1, help="Most rows of each file of a folder.")
    ] = 250_000,
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option("--precision", help="How vectors are stored.")
    ] = "fp32",
    as_json: Json = False,
) -> None:
    """Write the newest version of each document to Parquet or Qdrant.

    Started again, it goes on where it was.

    Example: embedstream export --to vectors/
    """
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    )
    from embedstream.export import Options
    from embedstream.export import export as run

    loaded, fingerprint = resolved(loaded, alias, embeddings_topic, fingerprint)
    done = run(loaded.settings, to, Options(fingerprint, precision, rows_per_file))
    report(done.to_json(), done.lines(), as_json)
