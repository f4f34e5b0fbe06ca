"""The command line: the commands by name, and every error as one line and an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedstream import __version__
from embedstream.commands import (
    bench,
    broker,
    config,
    consume,
    cutover,
    demo,
    dlq,
    doctor,
    estimate,
    export,
    fleet,
    init,
    model,
    pod,
    produce,
    replay,
    search,
    status,
    topics,
    verify,
)
from embedstream.commands.common import CommandFirst, allows_plaintext
from embedstream.errors import UsageError
from embedstream.garbage import rare_collections

__all__ = ["app", "main"]


app = typer.Typer(
    name="embedstream",
    cls=CommandFirst,
    help="Turns a large text corpus into embeddings on rented GPUs, through Kafka, exactly once.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(produce.produce)
app.command()(estimate.estimate)
app.command()(consume.consume)
app.command()(replay.replay)
app.command()(cutover.cutover)
app.command()(status.status)
app.command()(verify.verify)
app.command()(demo.demo)
app.command()(init.init)
app.command()(doctor.doctor)
app.command()(broker.broker)
app.command()(bench.bench)
app.add_typer(topics.app, name="topics")
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
app.command()(export.export)
app.command()(search.search)
app.add_typer(dlq.app, name="dlq")
app.add_typer(fleet.app, name="fleet")
app.command(context_settings=pod.PASSES_FLAGS_ON)(pod.pod)

for _app in (app, *(group.typer_instance for group in app.registered_groups)):
    for _command in _app.registered_commands if _app is not None else ():
        if _command.callback is not None:
            _command.callback = allows_plaintext(_command.callback)


def main() -> None:
    """The console script: every error that a user can cause is one line and an exit code."""
    try:
        # Most of what a command imports is imported when it is called.
        with rare_collections():
            app()
    except Exception as error:
        from embedstream.ending import tell

        sys.exit(tell(error))


@app.callback(invoke_without_command=True)
def embedstream(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings file (default: ./embedstream.toml if there).")
    ] = None,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """Reads what stands before the command."""
    if version:
        print(f"embedstream {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UsageError("no command", "`embedstream --help` lists them")
    context.obj = config
