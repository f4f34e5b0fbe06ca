"""`embedstream produce`: a corpus into the documents topic."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstream.commands.common import (
    Documents,
    Exclude,
    Exit,
    Include,
    Json,
    Servers,
    load,
    print_json,
    report,
)
from embedstream.errors import UsageError

__all__ = ["produce"]


def produce(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    id_field: Annotated[str | None, typer.Option("--id-field", help="Field that holds the id.")] = None,
    content_field: Annotated[
        str | None, typer.Option("--content-field", help="Field that holds the text (default: content).")
    ] = None,
    metadata_field: Annotated[
        list[str] | None,
        typer.Option("--metadata-field", help="Field to keep as metadata; repeatable (default: all)."),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    sample: Annotated[
        str | None, typer.Option("--sample", help="Send about this much of the corpus: 1GB, 500MB, ...")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Send this many documents.")] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Most text a second: 20MB means 20 MB/s.")
    ] = None,
    max_expansion: Annotated[
        int | None, typer.Option("--max-expansion", help="Most that a compressed file may grow, in times.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent and refused; connect to nothing.")
    ] = False,
    segment_bytes: Annotated[
        int | None, typer.Option("--segment-bytes", help="Largest text of a record, bytes of UTF-8.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", help="File that keeps what was sent (default: one per topic).")
    ] = None,
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Send everything, and write nothing down.")
    ] = False,
    ledger_from_topic: Annotated[
        bool | None, typer.Option("--ledger-from-topic", help="First make the ledger anew from the topic.")
    ] = None,
    rehash: Annotated[
        bool | None, typer.Option("--rehash", help="Read files though size and time are as they were.")
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option("--duplicates", help="Same text under another id: skip or keep.")
    ] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune", help="Delete documents that have vanished from the corpus.")
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force", help="Prune though it is more than 5% of the documents.")
    ] = None,
    readers: Annotated[
        int | None, typer.Option("--readers", help="Processes that read (default: cores less two).")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Serve /metrics there; 0 takes a free port.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was refused.")] = False,
    as_json: Json = False,
) -> None:
    """Stream a corpus into the documents topic.

    Run again, it sends what is new or has changed.

    Example: embedstream produce corpus/
    """
    if ledger is not None and no_ledger:
        raise UsageError("--ledger and --no-ledger exclude each other", "leave one out")
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        producer__id_field=id_field,
        producer__segment_bytes=segment_bytes,
        producer__content_field=content_field,
        producer__metadata_field=metadata_field or None,
        producer__include=include or None,
        producer__exclude=exclude or None,
        producer__sample=sample,
        producer__limit=limit,
        producer__rate=rate,
        producer__max_expansion=max_expansion,
        producer__ledger="none" if no_ledger else ledger,
        producer__ledger_from_topic=ledger_from_topic,
        producer__rehash=rehash,
        producer__duplicates=duplicates,
        producer__prune=prune,
        producer__force=force,
        producer__readers=readers,
        producer__metrics_port=metrics_port,
    ).settings
    if dry_run:
        from producer.dry_run import dry_run as look

        found = look(paths, settings, progress=True)
        report(found.to_json(), found.lines(), as_json)
        if strict and found.refused.counts:
            raise typer.Exit(Exit.FINDING)
        return
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
