"""`embedstream model fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstream.commands.common import CommandFirst, load

__all__ = ["app"]

app = typer.Typer(cls=CommandFirst, help="Get a model before it is needed.", no_args_is_help=True)


@app.command("fetch")
def fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Any sentence-transformers model, by name or path.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to copy it to; must not exist or be empty.")],
) -> None:
    """Fetch a model into a folder, to start without a download.

    A daemon takes it with --model FOLDER.

    Example: embedstream model fetch BAAI/bge-large-en-v1.5 --to models/bge-large
    """
    load(context)
    from consumer.model_files import copy_model

    print(copy_model(name, to))
