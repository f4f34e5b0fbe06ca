"""`embedstream dlq list|show|retry`: what failed, and back with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstream.commands.common import CommandFirst, DeadLetters, Json, Servers, load, report
from embedstream.errors import UsageError

if TYPE_CHECKING:
    from embedstream.dead_letters import Filter
    from embedstream.settings import KafkaSettings

__all__ = ["app"]

app = typer.Typer(cls=CommandFirst, help="Look at what failed, and send it back.", no_args_is_help=True)

ReasonName = Annotated[str | None, typer.Option("--reason", help="Of this reason only, such as too_large.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Not older than 90s, 15m, 6h, 7d, or 2026-01-31T12:00:00Z.")
]


@app.command("list")
def list_(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    dead_letters_topic: DeadLetters = None,
    reason: ReasonName = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Count the dead letters by reason, with an example of each.

    Example: embedstream dlq list --since 7d
    """
    kafka = _settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.dead_letters import read_letters, summarize
    from embedstream.retry import read_marks

    summary = summarize(read_letters(kafka, _filter(reason, since)), read_marks(kafka))
    report(summary.to_json(), summary.lines(), as_json)


@app.command("show")
def show(
    context: typer.Context,
    at: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="As `dlq list` names it.")],
    bootstrap_servers: Servers = None,
    dead_letters_topic: DeadLetters = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: why, from where, and how the text begins.

    Example: embedstream dlq show 0/17
    """
    kafka = _settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.dead_letters import read_letter

    letter = read_letter(kafka, at)
    report(letter.to_json(), letter.lines(), as_json)


@app.command("retry")
def retry(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    dead_letters_topic: DeadLetters = None,
    reason: ReasonName = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Send what failed back to be embedded again, each record once.

    Example: embedstream dlq retry --reason encode_failed
    """
    kafka = _settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.retry import retry as run

    done = run(kafka, _filter(reason, since))
    report(done.to_json(), done.lines(), as_json)


def _settings(context: typer.Context, servers: str | None, dead_letters_topic: str | None) -> KafkaSettings:
    flags = {"kafka__bootstrap_servers": servers, "kafka__dead_letters_topic": dead_letters_topic}
    return load(context, **flags).settings.kafka


def _filter(reason: str | None, since: str | None) -> Filter:
    from embedstream.dead_letters import Filter, parse_since
    from schemas.dead_letter import Reason

    try:
        named = None if reason is None else Reason(reason)
    except ValueError:
        raise UsageError(f"--reason {reason} is none", f"there are: {', '.join(Reason)}") from None
    return Filter(named, 0 if since is None else parse_since(since))
