"""`embedstream config show`."""

from __future__ import annotations

import typer

from embedstream.commands.common import CommandFirst, Json, load, report

__all__ = ["app"]

app = typer.Typer(cls=CommandFirst, help="Look at the settings.", no_args_is_help=True)


@app.command("show")
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting, its value, and where it came from.

    Secrets are hidden.

    Example: embedstream config show
    """
    from embedstream.settings import shown

    rows = list(shown(load(context)))
    told = {name: {"value": value, "source": source} for name, value, source in rows}
    width = max(len(name) for name, _, _ in rows)
    report(told, [f"{name:<{width}}  {value}  ({source})" for name, value, source in rows], as_json)
