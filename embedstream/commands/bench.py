"""`embedstream bench`: how fast this machine is, and what a corpus would cost on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import Json, Servers, load, print_json
from embedstream.errors import UsageError

__all__ = ["bench"]


def bench(
    context: typer.Context,
    sample: Annotated[
        Path | None,
        typer.Option("--sample", help="Files or a folder to measure with (default: Python's own reference)."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model name or path.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = None,
    token_budget: Annotated[int | None, typer.Option("--token-budget", help="Tokens of a batch.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Window in tokens.")] = None,
    bootstrap_servers: Servers = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to encode for, about.")] = 20.0,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Dollars an hour for this machine.")
    ] = None,
    corpus_tokens: Annotated[
        float | None, typer.Option("--corpus-tokens", help="Tokens of the corpus to reckon with.")
    ] = None,
    corpus_bytes: Annotated[
        float | None, typer.Option("--corpus-bytes", help="Or its size in bytes of text.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="File of speeds to add to, for `estimate --speeds`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine, and say what a corpus costs on it.

    It tells tokens a second, the share of the machine's peak, and the speed from Kafka to Kafka.

    Example: embedstream bench --price-per-hour 0.5 --corpus-bytes 200e9
    """
    settings = load(
        context,
        encoder__model=model,
        encoder__device=device,
        encoder__precision=precision,
        encoder__token_budget=token_budget,
        encoder__max_tokens=max_tokens,
        kafka__bootstrap_servers=bootstrap_servers,
        cost__price_per_hour=price_per_hour,
    ).settings
    for flag, value in (
        ("--seconds", seconds),
        ("--corpus-tokens", corpus_tokens),
        ("--corpus-bytes", corpus_bytes),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag} is {value:g}", "give more than 0")
    if corpus_tokens is not None and corpus_bytes is not None:
        raise UsageError("--corpus-tokens and --corpus-bytes say the same twice", "give one of them")
    from dataclasses import replace

    from rich.console import Console
    from rich.table import Table

    from embedstream.bench.report import record as add_to
    from embedstream.bench.run import run_bench
    from embedstream.bench.sample import read_sample
    from embedstream.logs import configure

    configure(level="WARNING")
    errors = Console(stderr=True)
    with errors.status("reading the sample") as status:
        found = run_bench(
            settings, read_sample(sample), seconds=seconds, say=lambda what: status.update(what)
        )
    if corpus_bytes is not None:
        found = found.with_corpus_bytes(corpus_bytes)
    elif corpus_tokens is not None:
        found = replace(found, corpus_tokens=corpus_tokens)
    if record is not None:
        add_to(found, record)
    if as_json:
        print_json(found.to_json())
        return
    table = Table(show_header=False, box=None)
    for row in found.rows():
        table.add_row(*row)
    Console().print(table)
