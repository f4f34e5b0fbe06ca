"""The commands that take embeddings out of Kafka, and dead letters back in: export, search and dlq."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedstream.commands.common import DeadLetters, Documents, Embeddings, Json, Servers, load, report
from embedstream.errors import UsageError
from embedstream.settings import KafkaSettings, Loaded
from schemas.dead_letter import Reason

if TYPE_CHECKING:
    from embedstream.dead_letters import Filter

__all__ = ["add_to"]

AliasName = Annotated[
    str | None, typer.Option("--alias", help="Read what this alias stands for, instead of a topic.")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Of the model, where the topic holds several.")
]


ReasonName = Annotated[str | None, typer.Option("--reason", help="Of this reason only, such as too_large.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Not older than 90s, 15m, 6h, 7d, or 2026-01-31T12:00:00Z.")
]

dlq_app = typer.Typer(help="Look at what failed, and send it back.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(export)
    app.command()(search)
    app.add_typer(dlq_app, name="dlq")


def export(
    context: typer.Context,
    to: Annotated[
        str, typer.Option("--to", metavar="PATH", help="FILE.parquet, a folder, or qdrant://HOST:PORT/NAME.")
    ],
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    alias: AliasName = None,
    fingerprint: Fingerprint = None,
    rows_per_file: Annotated[
        int, typer.Option("--rows-per-file", min=1, help="Most rows of each file of a folder.")
    ] = 250_000,
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option("--precision", help="How vectors are stored.")
    ] = "fp32",
    as_json: Json = False,
) -> None:
    """Write the newest version of each document to Parquet or Qdrant; started again, it goes on.

    Example: embedstream export --to vectors/
    """
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    )
    from embedstream.export import Options
    from embedstream.export import export as run

    loaded, fingerprint = _resolved(loaded, alias, embeddings_topic, fingerprint)
    done = run(loaded.settings, to, Options(fingerprint, precision, rows_per_file))
    report(done.to_json(), done.lines(), as_json)


def search(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to look for, in words.")],
    where: Annotated[
        Path | None, typer.Option("--in", help="An export in Parquet (default: the embeddings topic).")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, max=10_000, help="How many passages.")] = 5,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    alias: AliasName = None,
    fingerprint: Fingerprint = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model (default: the one that the vectors name).")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="As `consume` was given it, if it was.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the passages nearest to a question, comparing every vector.

    Example: embedstream search "How do I catch an exception?" --in vectors/
    """
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        encoder__model=model,
        encoder__max_tokens=max_tokens,
    )
    if where is not None and (alias or embeddings_topic or fingerprint):
        raise UsageError("--in names an export", "leave --alias, --embeddings-topic and --fingerprint away")
    if not question.strip():
        raise UsageError("the question is empty", "ask something")
    from embedstream.find import find

    loaded, fingerprint = _resolved(loaded, alias, embeddings_topic, fingerprint)
    named = None if loaded.source("encoder.model") == "default" else loaded.settings.encoder.model
    found = find(loaded.settings, question, top, where=where, model=named, fingerprint=fingerprint)
    report(found.to_json(), found.lines(), as_json)


def _resolved(
    loaded: Loaded, alias: str | None, embeddings_topic: str | None, fingerprint: str | None
) -> tuple[Loaded, str | None]:
    """The settings and the fingerprint with what the alias stands for, where one is named."""
    if alias is None:
        return loaded, fingerprint
    if embeddings_topic or fingerprint:
        raise UsageError(
            "--alias stands for a topic and a model", "leave --embeddings-topic and --fingerprint away"
        )
    from embedstream.aliases import resolve_alias

    found = resolve_alias(loaded.settings.kafka, alias)
    topics = {"embeddings_topic": found.topic, "documents_topic": found.documents_topic}
    kafka = loaded.settings.kafka.model_copy(update=topics)
    settings = loaded.settings.model_copy(update={"kafka": kafka})
    return Loaded(settings, loaded.sources), found.model_fingerprint


@dlq_app.command("list")
def dlq_list(
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
    kafka = _dlq_settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.dead_letters import read_letters, summarize
    from embedstream.retry import read_marks

    summary = summarize(read_letters(kafka, _filter(reason, since)), read_marks(kafka))
    report(summary.to_json(), summary.lines(), as_json)


@dlq_app.command("show")
def dlq_show(
    context: typer.Context,
    at: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="As `dlq list` names it.")],
    bootstrap_servers: Servers = None,
    dead_letters_topic: DeadLetters = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: why, from where, and how the document begins.

    Example: embedstream dlq show 0/17
    """
    kafka = _dlq_settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.dead_letters import read_letter

    letter = read_letter(kafka, at)
    report(letter.to_json(), letter.lines(), as_json)


@dlq_app.command("retry")
def dlq_retry(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    dead_letters_topic: DeadLetters = None,
    reason: ReasonName = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Send what failed back to where it came from, once, to be embedded again.

    Example: embedstream dlq retry --reason encode_failed
    """
    kafka = _dlq_settings(context, bootstrap_servers, dead_letters_topic)
    from embedstream.retry import retry

    done = retry(kafka, _filter(reason, since))
    report(done.to_json(), done.lines(), as_json)


def _dlq_settings(
    context: typer.Context, servers: str | None, dead_letters_topic: str | None
) -> KafkaSettings:
    flags = {"kafka__bootstrap_servers": servers, "kafka__dead_letters_topic": dead_letters_topic}
    return load(context, **flags).settings.kafka


def _filter(reason: str | None, since: str | None) -> Filter:
    from embedstream.dead_letters import Filter, parse_since

    try:
        named = None if reason is None else Reason(reason)
    except ValueError:
        raise UsageError(f"--reason {reason} is none", f"there are: {', '.join(Reason)}") from None
    return Filter(named, 0 if since is None else parse_since(since))
