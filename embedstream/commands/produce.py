"""`embedstream produce`: a corpus into the documents topic."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstream.commands.common import Documents, Exit, Json, Servers, load, print_json

__all__ = ["produce"]


def produce(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    id_field: Annotated[str | None, typer.Option("--id-field", help="Field that holds the id.")] = None,
    segment_bytes: Annotated[
        int | None, typer.Option("--segment-bytes", help="Largest text of a record, bytes of UTF-8.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was refused.")] = False,
    as_json: Json = False,
) -> None:
    """Stream a corpus into the documents topic.

    Example: embedstream produce corpus/
    """
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        producer__id_field=id_field,
        producer__segment_bytes=segment_bytes,
    ).settings
    from producer.produce import produce as run

    summary = run(paths, settings, progress=True)
    if as_json:
        print_json(summary.to_json())
    else:
        for line in summary.lines():
            print(line)
    if summary.failure is not None:
        raise summary.failure
    if summary.interrupted_by is not None:
        raise typer.Exit(128 + summary.interrupted_by)
    if strict and summary.refused:
        raise typer.Exit(Exit.FINDING)
