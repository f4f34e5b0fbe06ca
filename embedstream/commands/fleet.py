"""`embedstream fleet up|status|scale|down|sd`: rented pods, and back to zero."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from embedstream.commands.common import (
    CommandFirst,
    DeadLetters,
    Documents,
    Embeddings,
    Group,
    Json,
    Servers,
    load,
    report,
)
from embedstream.errors import BudgetUsedUpError, ConfigError, TryAgainError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstream.fleet.fleet import Environment, Fleet
    from embedstream.fleet.plan import Candidate, Spec
    from embedstream.fleet.records import Cloud
    from embedstream.settings import Loaded

__all__ = ["app"]

app = typer.Typer(
    cls=CommandFirst, help="Rent pods on RunPod for a job, watch them, and end them.", no_args_is_help=True
)

Name = Annotated[str | None, typer.Option("--name", help="Of the fleet; pods are NAME-0, NAME-1, ...")]
Watch = Annotated[
    bool, typer.Option("--watch", help="Replace pods that vanish, until drained or the budget is used up.")
]


@app.command("up")
def up(
    context: typer.Context,
    pods: Annotated[int, typer.Option("--pods", help="How many.")] = 1,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="GPU type, in order of preference; repeatable.")
    ] = None,
    cloud: Annotated[
        list[str] | None, typer.Option("--cloud", help="COMMUNITY or SECURE; repeatable (default: both).")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Of the consumer, as it was pushed.")] = None,
    max_price: Annotated[float | None, typer.Option("--max-price", help="Dollars an hour of a pod.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", help="Dollars of all pods together.")] = None,
    max_hours: Annotated[float | None, typer.Option("--max-hours", help="Longest that a pod lives.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", help="SETTING=NAME: pods take it from RunPod's secret NAME; repeatable."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", help="RunPod's credential for a private image.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be rented; rent nothing.")
    ] = False,
    watch: Watch = False,
    name: Name = None,
    bootstrap_servers: Servers = None,
    documents_topic: Documents = None,
    embeddings_topic: Embeddings = None,
    dead_letters_topic: DeadLetters = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model, by name or path in the image.")
    ] = None,
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Rent pods until there are as many as asked for.

    Run again, it rents what is missing.

    Example: embedstream fleet up --pods 4 --gpu "RTX 4090" --image me/embedstream --budget 50
    """
    if pods < 1:
        raise UsageError(f"--pods is {pods}", "give 1 or more; `embedstream fleet scale 0` pauses a job")
    loaded = load(
        context,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__documents_topic=documents_topic,
        kafka__embeddings_topic=embeddings_topic,
        kafka__dead_letters_topic=dead_letters_topic,
        encoder__model=model,
        consumer__group=group,
        fleet__name=name,
        fleet__gpu=gpu or None,
        fleet__cloud=cloud or None,
        fleet__image=image,
        fleet__max_price=max_price,
        fleet__budget=budget,
        fleet__max_hours=max_hours,
        fleet__secrets=secret or None,
        fleet__registry=registry,
    )
    from embedstream.fleet.environment import plain_secrets, pod_environment
    from embedstream.fleet.report import Plan, plain_lines

    fleet = _fleet(loaded)
    asked = loaded.settings.fleet
    common = pod_environment(loaded)
    choices = _choices(fleet, asked.gpu, asked.cloud, asked.max_price)
    spec = _spec(loaded, pods, choices)
    in_plain = plain_secrets(common)
    fleet.check_name(spec.job)
    if dry_run:
        plan = Plan(spec, choices, sorted(common), in_plain)
        report(plan.to_json(), plan.lines(), as_json)
        return
    for line in plain_lines(in_plain):
        _say(line)
    before = fleet.ledger.spec
    if before is not None and before.job != spec.job:
        _say(f"this name's last job cost ${fleet.ledger.dollars:.2f}; it is another one's from now on")
    for pod in fleet.look():
        if pod.image not in ("", spec.image):
            _say(f"{pod.name} goes on with {pod.image}: `embedstream fleet scale 0` ends it first")
    _run(fleet, spec, choices, _environment(common, spec), loaded, watch=watch, as_json=as_json)


@app.command("scale")
def scale(
    context: typer.Context,
    pods: Annotated[int, typer.Argument(metavar="N", help="How many; 0 pauses the job.")],
    watch: Watch = False,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Change the number of pods; 0 ends all, once they have delivered.

    A number takes the job up again.

    Example: embedstream fleet scale 0
    """
    if pods < 0:
        raise UsageError(f"N is {pods}", "give 0 or more")
    fleet = _fleet(load(context, fleet__name=name))
    if pods == 0:
        _down(fleet, as_json)
        return
    from embedstream.fleet.environment import plain_secrets, pod_environment
    from embedstream.fleet.plan import job_of
    from embedstream.fleet.report import plain_lines

    spec = fleet.ledger.spec
    if spec is None:
        raise UsageError(
            f"no fleet {fleet.name!r} was started from here", "start it with `embedstream fleet up`"
        )
    given = {setting.replace(".", "__"): value for setting, value in spec.flags.items()}
    loaded = load(context, **given, fleet__name=name)
    if spec.job != job_of(loaded.settings):
        raise ConfigError(
            f"the fleet {fleet.name!r} works at another job than these settings name",
            "set the brokers, topics, group and model to what they were at `embedstream fleet up`",
        )
    spec = spec.model_copy(update={"pods": pods})
    common = pod_environment(loaded)
    choices = _choices(fleet, spec.gpus, spec.clouds, spec.max_price)
    fleet.check_name(spec.job)
    for line in plain_lines(plain_secrets(common)):
        _say(line)
    _run(fleet, spec, choices, _environment(common, spec), loaded, watch=watch, as_json=as_json)


@app.command("status")
def status(context: typer.Context, name: Name = None, as_json: Json = False) -> None:
    """Show the pods, what they cost an hour, and what they have cost.

    Example: embedstream fleet status
    """
    _report(_fleet(load(context, fleet__name=name)), as_json)


@app.command("down")
def down(context: typer.Context, name: Name = None, as_json: Json = False) -> None:
    """End every pod of the fleet, look until none is left, and say so.

    Example: embedstream fleet down
    """
    _down(_fleet(load(context, fleet__name=name)), as_json)


@app.command("sd")
def sd(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 9410,
    once: Annotated[bool, typer.Option("--once", help="Print the list of targets and end.")] = False,
    name: Name = None,
) -> None:
    """Tell Prometheus where the pods are (http_sd_configs).

    It also serves the fleet's own metrics on /metrics.

    Example: embedstream fleet sd --port 9410
    """
    fleet = _fleet(load(context, fleet__name=name))
    from embedstream.commands.common import print_json
    from embedstream.fleet.discovery import make_server, targets

    if once:
        print_json(targets(fleet.name, fleet.look()))
        return
    server = make_server(fleet, host, port)
    print(f"service discovery on http://{host}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    server.serve_forever()


def _fleet(loaded: Loaded) -> Fleet:
    from embedstream.fleet.client import RunPod
    from embedstream.fleet.fleet import Fleet
    from embedstream.fleet.ledger import Ledger, ledger_path

    settings = loaded.settings.fleet
    key = settings.api_key or os.environ.get("RUNPOD_API_KEY")
    if not key:
        raise ConfigError(
            "there is no RunPod API key", "set RUNPOD_API_KEY, or EMBEDSTREAM_FLEET__API_KEY_FILE"
        )
    return Fleet(RunPod(key.strip(), settings.api_url), settings.name, Ledger(ledger_path(settings.name)))


def _choices(
    fleet: Fleet, gpus: Sequence[str], clouds: Sequence[Cloud], max_price: float | None
) -> list[Candidate]:
    from embedstream.fleet.plan import candidates

    catalogue = {cloud: fleet.runpod.gpus(cloud) for cloud in clouds}
    return candidates(gpus, clouds, catalogue, max_price)


def _spec(loaded: Loaded, pods: int, choices: Sequence[Candidate]) -> Spec:
    from embedstream.fleet.environment import flags_of
    from embedstream.fleet.plan import Spec, job_of

    settings = loaded.settings.fleet
    if settings.image is None:
        raise UsageError("no image is named", "build and push deploy/docker/Dockerfile, and give --image")
    return Spec(
        name=settings.name,
        job=job_of(loaded.settings),
        pods=pods,
        gpus=tuple(dict.fromkeys(each.gpu for each in choices)),
        clouds=settings.cloud,
        image=settings.image,
        disk_gb=settings.disk_gb,
        min_cuda=settings.min_cuda,
        registry=settings.registry,
        max_price=settings.max_price,
        budget=settings.budget,
        max_hours=settings.max_hours,
        start_seconds=settings.start_seconds,
        expose_metrics=loaded.settings.metrics.token is not None,
        flags=flags_of(loaded),
    )


def _environment(common: dict[str, str], spec: Spec) -> Environment:
    from embedstream.fleet.environment import slot_environment

    return lambda name, price, until: slot_environment(common, name, spec.marker, price, until)


def _run(
    fleet: Fleet,
    spec: Spec,
    choices: Sequence[Candidate],
    environment: Environment,
    loaded: Loaded,
    *,
    watch: bool,
    as_json: bool,
) -> None:
    from embedstream.fleet.job import KafkaJob
    from embedstream.fleet.watch import start
    from embedstream.fleet.watch import watch as keep

    if not watch:
        fleet.check_budget(spec)
    fleet.ledger.ask_for(spec)
    shortage: str | None = None
    try:
        if watch:
            keep(fleet, choices, environment, KafkaJob(loaded.settings), _say)
        else:
            shortage = start(fleet, spec, choices, environment).shortage
    except BudgetUsedUpError:
        _report(fleet, as_json)
        raise
    except KeyboardInterrupt:
        _say("pods that were made go on: `embedstream fleet down` ends them")
        raise
    _report(fleet, as_json)
    if shortage is not None:
        raise TryAgainError(
            f"not every pod could be had (last: {shortage})", "run the same command again, or name other GPUs"
        )


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _report(fleet: Fleet, as_json: bool) -> None:
    from embedstream.fleet.report import FleetStatus

    pods = fleet.look()
    found = FleetStatus(fleet.name, fleet.ledger.spec, pods, fleet.ledger.dollars, fleet.now())
    report(found.to_json(), found.lines(), as_json)


def _down(fleet: Fleet, as_json: bool) -> None:
    ended = fleet.down()
    left = [f"{pod.name} ({pod.id})" for pod in fleet.strangers()]
    told = {
        "ended": [pod.id for pod in ended],
        "running": 0,
        "not_of_this_fleet": left,
        "dollars": round(fleet.ledger.dollars, 4),
    }
    lines = [f"ended {pod.name} ({pod.id})" for pod in ended]
    lines += [f"left alone, since another made it: {each}" for each in left]
    lines.append(
        f"nothing {'of this fleet ' if left else ''}is left running; it cost ${fleet.ledger.dollars:.2f}"
    )
    report(told, lines, as_json)
