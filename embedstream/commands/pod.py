"""`embedstream pod`: what a rented pod runs."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import typer

from embedstream.commands.common import Servers, load

__all__ = ["PASSES_FLAGS_ON", "pod"]

PASSES_FLAGS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def pod(
    context: typer.Context,
    bootstrap_servers: Servers = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="End the pod then: 2026-01-31T12:00:00Z.")
    ] = None,
    kafka_seconds: Annotated[
        float | None, typer.Option("--kafka-seconds", help="End it after so long without Kafka.")
    ] = None,
) -> None:
    """Run `consume --until-drained FLAGS`, then end this RunPod pod.

    It ends when the job is drained, or money, time or Kafka have run out.

    Example: embedstream pod --model /models/bge-large
    """
    moment = None if deadline is None else _moment(deadline)
    settings = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        pod__deadline=moment,
        pod__kafka_seconds=kafka_seconds,
    ).settings
    from embedstream.fleet.pod import run_pod

    # The daemon reads the rest from where this process has it.
    taken = [] if bootstrap_servers is None else ["--bootstrap-servers", bootstrap_servers]
    taken += ["--allow-plaintext"] if settings.kafka.allow_plaintext else []
    sys.exit(run_pod(settings, [*taken, *context.args], context.obj))


def _moment(text: str) -> datetime | str:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text
