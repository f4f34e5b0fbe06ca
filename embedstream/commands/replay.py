"""`embedstream replay`: the documents topic again, under another model."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from embedstream.commands.common import Documents, Json, Servers, load, print_json, report
from embedstream.errors import UsageError

if TYPE_CHECKING:
    from embedstream.replay import Plan
    from embedstream.settings import Loaded

__all__ = ["join_command", "replay"]

# What a further daemon has to be given, where it is not the default here.
_SHARED = (
    ("kafka.bootstrap_servers", "--bootstrap-servers"),
    ("kafka.documents_topic", "--documents-topic"),
    ("encoder.max_tokens", "--max-tokens"),
    ("encoder.truncate_dim", "--truncate-dim"),
    ("consumer.overflow", "--overflow"),
    ("consumer.delivery", "--delivery"),
    ("consumer.rate", "--rate"),
)


def replay(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", help="Any sentence-transformers model, by name or path.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="beginning, a time, or PARTITION:OFFSET,... for every partition."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Topic to write to (default: embeddings.MODEL).")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Most document bytes a second of this daemon: 20MB.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, from a sample; change nothing.")
    ] = False,
    until_drained: Annotated[
        bool | None, typer.Option("--until-drained", help="End when all that is there now is committed.")
    ] = None,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    instance_id: Annotated[
        str | None, typer.Option("--instance-id", help="Name of this daemon, the same at every start.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest passage (default: the model's own).")
    ] = None,
    truncate_dim: Annotated[
        int | None, typer.Option("--truncate-dim", help="Keep the first N dimensions.")
    ] = None,
    recover_offsets: Annotated[
        bool | None, typer.Option("--recover-offsets", help="Take forgotten offsets from the output.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Of /metrics; by default any that is free.")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="For --dry-run: as RTX 4090; repeatable.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Dollars an hour of one GPU.")
    ] = None,
    pods: Annotated[int, typer.Option("--pods", min=1, help="For --dry-run: GPUs at the same time.")] = 1,
    as_json: Json = False,
) -> None:
    """Embed the documents again under another model, beside the live.

    Started again, it goes on; started elsewhere, it joins.

    Example: embedstream replay --model BAAI/bge-large-en-v1.5 --dry-run
    """
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        encoder__model=model,
        encoder__device=device,
        encoder__precision=precision,
        encoder__max_tokens=max_tokens,
        encoder__truncate_dim=truncate_dim,
        consumer__instance_id=instance_id,
        consumer__rate=rate,
        consumer__until_drained=until_drained,
        consumer__recover_offsets=recover_offsets,
        cost__price_per_hour=price_per_hour,
        metrics__port=metrics_port,
    )
    if loaded.source("encoder.model") == "default":
        raise UsageError("--model is missing", "name the model to embed with")
    if gpu and not dry_run:
        raise UsageError("--gpu is for --dry-run", "leave it away; --device names the one to run on")
    if dry_run and not gpu and loaded.source("cost.price_per_hour") == "--price-per-hour":
        raise UsageError("--price-per-hour without --gpu", "name the GPU that it is the price of")
    from embedstream.replay import plan_replay, run_replay

    settings = loaded.settings
    if loaded.source("metrics.port") == "default":
        # A live daemon of this machine has that one.
        settings = settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"port": 0})})
    plan = plan_replay(settings, output, from_)
    if dry_run:
        from embedstream.estimate import Question
        from embedstream.replay import estimate

        price = settings.cost.price_per_hour if gpu else None
        found = estimate(plan, Question(gpus=tuple(gpu or ()), price=price, pods=pods))
        report(found.to_json(), found.lines(), as_json)
        return
    from embedstream.ending import ends_the_process

    with ends_the_process():
        run_replay(plan, lambda begun: _tell(begun, join_command(loaded, begun), as_json))


def join_command(loaded: Loaded, plan: Plan) -> str:
    """The command that starts one more daemon of a replay, on any machine with the same settings file."""
    settings = plan.settings
    flags = ["--group", settings.consumer.group]
    flags += ["--embeddings-topic", settings.kafka.embeddings_topic]
    flags += ["--dead-letters-topic", settings.kafka.dead_letters_topic]
    flags += ["--model", settings.encoder.model]
    for name, flag in _SHARED:
        if loaded.source(name) != "default":
            section, field = name.split(".")
            value = getattr(getattr(settings, section), field)
            flags += [flag, str(int(value) if name == "consumer.rate" else value)]
    return shlex.join(["embedstream", "consume", *flags])


def _tell(plan: Plan, command: str, as_json: bool) -> None:
    """What has begun, before this process becomes one of its daemons."""
    settings, start = plan.settings, plan.start
    if as_json:
        print_json(
            {
                "output": settings.kafka.embeddings_topic,
                "dead_letters": settings.kafka.dead_letters_topic,
                "group": settings.consumer.group,
                "resumes": plan.resumes,
                "records": start.records,
                "start": {str(each): offset for each, offset in start.begin.items()},
                "join": command,
            }
        )
    else:
        verb = "goes on with" if plan.resumes else "begins:"
        print(f"the replay into {settings.kafka.embeddings_topic} {verb} {start.records:,} records")
        print("more daemons, each with an --instance-id of its own, join with")
        print(f"  {command}")
    print(end="", flush=True)
