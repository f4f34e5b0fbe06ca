"""What the commands share: options of the same name and meaning, settings with flags, and reports."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

if TYPE_CHECKING:
    # `--help` of every command imports this module: pydantic and what it brings would be half a second.
    from embedstream.settings import Loaded

__all__ = [
    "CommandFirst",
    "DeadLetters",
    "Documents",
    "Embeddings",
    "Exclude",
    "Exit",
    "Group",
    "Include",
    "Json",
    "Servers",
    "allows_plaintext",
    "load",
    "print_json",
    "report",
]

Servers = Annotated[str | None, typer.Option("--bootstrap-servers", help="Kafka brokers, HOST:PORT,...")]
Documents = Annotated[str | None, typer.Option("--documents-topic", help="Topic of the documents.")]
Embeddings = Annotated[str | None, typer.Option("--embeddings-topic", help="Topic of the embeddings.")]
DeadLetters = Annotated[str | None, typer.Option("--dead-letters-topic", help="Topic of what failed.")]
Group = Annotated[str | None, typer.Option("--group", help="Consumer group.")]
Include = Annotated[
    list[str] | None, typer.Option("--include", help="Only files that this glob matches; repeatable.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Not what this glob matches; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]


_ALLOW_PLAINTEXT = "embedstream.allow_plaintext"


class CommandFirst(typer.core.TyperGroup):
    """Looks for options before a command only where it does not come first.

    For each option that is not given, typer imports pydantic: half of what `--help` of a command would take.
    """

    _comes_first = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads what stands before the command, and leaves the rest to it."""
        self._comes_first = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options that may stand here."""
        return [] if self._comes_first else super().get_params(ctx)


class Exit(IntEnum):
    """Exit codes that no error type carries."""

    FINDING = 1


def load(context: typer.Context, **flags: object) -> Loaded:
    """The settings with this command's flags; `kafka__documents_topic` is kafka.documents_topic.

    Where they name a schema registry, records are read with it from now on.
    """
    from embedstream.logs import configure
    from embedstream.settings import load_with_sources

    configure()
    flags.setdefault("kafka__allow_plaintext", context.meta.get(_ALLOW_PLAINTEXT))
    loaded = load_with_sources(context.obj, {k.replace("__", "."): v for k, v in flags.items()})
    if loaded.settings.schema_registry.url is not None:
        from embedstream.registry import read_ids

        read_ids(loaded.settings.schema_registry)
    return loaded


def allows_plaintext(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with `--allow-plaintext`, if it takes `--bootstrap-servers`; `load` heeds it."""
    signature = inspect.signature(command, eval_str=True)
    # Evaluated once, and not again each of the four times that typer looks at a command.
    command.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    if "bootstrap_servers" not in signature.parameters:
        return command

    @wraps(command)
    def wrapped(*args: Any, allow_plaintext: bool | None = None, **kwargs: Any) -> Any:
        kwargs["context"].meta[_ALLOW_PLAINTEXT] = allow_plaintext
        return command(*args, **kwargs)

    option = typer.Option("--allow-plaintext", help="Speak to servers on the internet without TLS.")
    one = inspect.Parameter(
        "allow_plaintext",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[bool | None, option],
    )
    changed = signature.replace(parameters=[*signature.parameters.values(), one])
    wrapped.__signature__ = changed  # type: ignore[attr-defined]
    return wrapped


def report(document: Any, lines: Iterable[str], as_json: bool) -> None:
    """The same finding for a program or for a person."""
    if as_json:
        print_json(document)
    else:
        for line in lines:
            print(line)


def print_json(document: Any) -> None:
    """Prints the one document of `--json`."""
    print(json.dumps(document, ensure_ascii=False))
