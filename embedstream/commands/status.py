"""`embedstream status`: how far a group is, what it costs, and what is wrong."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from embedstream.commands.common import (
    DeadLetters,
    Documents,
    Embeddings,
    Group,
    Json,
    Servers,
    load,
    print_json,
)
from embedstream.errors import ServiceUnavailableError, UsageError

if TYPE_CHECKING:
    from embedstream.status import Watcher

__all__ = ["status"]

# How long to look for something that moves where no daemon tells a rate.
SECOND_LOOK_SECONDS = 2.0


def status(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    group: Group = None,
    daemon: Annotated[
        list[str] | None,
        typer.Option("--daemon", help="HOST:PORT or URL of a daemon's metrics; repeatable (default: yours)."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between looks.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Say how far a group is, how long it takes and what it costs.

    Example: embedstream status --watch
    """
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other", "leave one out")
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        consumer__group=group,
    ).settings
    from embedstream.status import Watcher

    own = f"{settings.metrics.host}:{settings.metrics.port}"
    with Watcher(settings, daemon or ([own] if settings.metrics.port > 0 else [])) as watcher:
        if watch:
            _watch(watcher, interval)
            return
        found = watcher.look()
        if found.estimate.likely is None:
            time.sleep(SECOND_LOOK_SECONDS)
            found = watcher.look()
    if as_json:
        print_json(found.to_json())
        return
    from rich.console import Console

    from embedstream.status_screen import screen

    Console(highlight=False).print(screen(found))


def _watch(watcher: Watcher, interval: float) -> None:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from embedstream.status_screen import screen

    console = Console(highlight=False)
    try:
        seen: RenderableType = screen(watcher.look())
        page: AbstractContextManager[Live | None] = nullcontext()
        if console.is_terminal:
            page = Live(seen, console=console, auto_refresh=False)
        with page as live:
            shown: RenderableType = seen
            while True:
                if live is None:
                    console.print(shown)
                else:
                    live.update(shown, refresh=True)
                time.sleep(interval)
                try:
                    shown = seen = screen(watcher.look())
                except ServiceUnavailableError as error:
                    # What hangs on a wall outlasts a broker that is away, and says how old it is.
                    shown = Group(seen, Text(f"the last look, and now: {error}", style="bold"))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
