"""`embedstream init`: a first settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.starter import Place, write_starter

__all__ = ["init"]


def init(
    context: typer.Context,  # noqa: ARG001 - every command has one
    place: Annotated[
        Place,
        typer.Argument(help="laptop: embedded broker and small model; local or cloud: where your Kafka is."),
    ] = Place.LAPTOP,
    to: Annotated[Path, typer.Option("--to", help="File to write; must not exist.")] = Path(
        "embedstream.toml"
    ),
) -> None:
    """Write a commented embedstream.toml to begin with.

    For a laptop, a Kafka on this machine or a private network, or a Kafka in the cloud.

    Example: embedstream init cloud
    """
    write_starter(to, place)
    print(f"wrote {to}; `embedstream config show` tells what is set, `embedstream doctor` whether it works")
