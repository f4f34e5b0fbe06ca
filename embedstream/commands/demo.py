"""`embedstream demo`: everything once, on documents that every Python carries."""

from __future__ import annotations

import typer

from embedstream.commands.common import Exit, Json, Servers, load, print_json

__all__ = ["demo"]


def demo(context: typer.Context, bootstrap_servers: Servers = None, as_json: Json = False) -> None:
    """See it work: embed Python's own reference, and ask it something.

    Example: embedstream demo
    """
    loaded = load(context, kafka__bootstrap_servers=bootstrap_servers)
    from embedstream.demo import run_demo

    own_broker = loaded.source("kafka.bootstrap_servers") == "default"
    result = run_demo(loaded.settings, own_broker=own_broker, as_json=as_json)
    if as_json:
        print_json(result)
    if not result["verified"]:
        raise typer.Exit(Exit.FINDING)
