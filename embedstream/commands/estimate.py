"""`embedstream estimate`: what a corpus will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import Exclude, Include, Json, load, report

__all__ = ["estimate"]


def estimate(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="As RTX 4090; repeatable (default: those with a price).")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Dollars an hour of one.")] = None,
    pods: Annotated[int, typer.Option("--pods", min=1, help="GPUs at work at the same time.")] = 1,
    sample: Annotated[str, typer.Option("--sample", help="How much of the corpus to read.")] = "16MB",
    model: Annotated[str | None, typer.Option("--model", help="The model to embed with.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest passage.")] = None,
    replication: Annotated[int, typer.Option("--replication", min=1, help="Copies on the broker.")] = 3,
    prices: Annotated[Path | None, typer.Option("--prices", help="Price file of your own.")] = None,
    speeds: Annotated[Path | None, typer.Option("--speeds", help="File of measured speeds.")] = None,
    content_field: Annotated[str | None, typer.Option("--content-field", help="Field of the text.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Say what a corpus will cost, from a sample of it.

    It tells tokens, passages, hours, dollars, disk and network.

    Example: embedstream estimate corpus/ --gpu "RTX 4090" --price 0.50 --pods 4
    """
    settings = load(
        context,
        encoder__model=model,
        encoder__max_tokens=max_tokens,
        producer__sample=sample,
        producer__content_field=content_field,
        producer__include=include or None,
        producer__exclude=exclude or None,
    ).settings
    from embedstream.estimate import Question, run_estimate

    question = Question(
        gpus=tuple(gpu or ()),
        price=price,
        pods=pods,
        sample_bytes=settings.producer.sample or 0,
        replication=replication,
        prices=prices,
        speeds=speeds,
    )
    found = run_estimate(paths, settings, question)
    report(found.to_json(), found.lines(), as_json)
