"""`embedstream broker`: the embedded broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import load

__all__ = ["broker"]


def broker(
    context: typer.Context,
    port: Annotated[int, typer.Option("--port", help="On 127.0.0.1; 0 takes a free one.")] = 9092,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where topics are kept (default: nowhere).")
    ] = None,
) -> None:
    """Run the embedded broker, for trying things.

    It keeps everything in memory: it is no place for a real corpus.

    Example: embedstream broker --port 9092
    """
    load(context)
    from embedstream.broker import run_broker

    run_broker(port, data_dir)
