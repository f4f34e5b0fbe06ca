"""Embeds the documents topic again under another model: in a group of its own, into topics of its own.

    plan = plan_replay(settings, output=None, wanted=None)
    run_replay(plan, tell=print)

All that makes a replay is in Kafka: the group, which is named after the output topic, and its offsets, which
are committed for every partition before a daemon joins. So the same command begins a replay, goes on with
one, and joins one that runs; and so does `consume` with the same group and topics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient

from embedstream.errors import ConfigError
from embedstream.estimate import Question
from embedstream.kafka import make_admin, topic_partitions
from embedstream.logs import get_logger
from embedstream.model_shape import open_model
from embedstream.offsets import GroupOffsets, committed_offsets
from embedstream.output_begin import first_embedding
from embedstream.replay_estimate import ReplayEstimate, estimate_replay
from embedstream.replay_names import default_output, with_output
from embedstream.replay_progress import tell_progress
from embedstream.replay_start import BEGINNING, Start, commit_start, find_start
from embedstream.settings import Settings
from embedstream.topics import copies_of, create_topics

if TYPE_CHECKING:
    from consumer.encoder import ModelInfo

__all__ = ["Plan", "estimate", "plan_replay", "run_replay"]

_log = get_logger("replay")


@dataclass(frozen=True)
class Plan:
    """A replay, before anything is done.

    Attributes:
        settings: Of its daemons.
        partitions: How many the documents have.
        start: Where it begins, or goes on.
        resumes: Whether the group has begun.
    """

    settings: Settings
    partitions: int
    start: Start
    resumes: bool


def plan_replay(settings: Settings, output: str | None, wanted: str | None) -> Plan:
    """Work out what a replay would do; nothing is changed.

    Args:
        settings: Of the live daemons, with the model of the replay.
        output: The topic to write to; None for the model's own.
        wanted: Where to begin, as for `find_start`; None for the beginning. A replay that has begun goes on.

    Raises:
        UsageError: The output can't be that, or there is no such start.
        ConfigError: The documents topic does not exist, or the output holds vectors of another dimension.
        ServiceUnavailableError: No broker answers.
    """
    settings = with_output(settings, output or default_output(settings.encoder.model))
    kafka, group = settings.kafka, settings.consumer.group
    admin = make_admin(kafka)
    partitions = topic_partitions(admin, kafka.documents_topic, "kafka.documents_topic")
    found = committed_offsets(kafka, group, kafka.documents_topic, range(partitions))
    if not found:
        start = find_start(admin, kafka.documents_topic, partitions, BEGINNING if wanted is None else wanted)
        return Plan(settings, partitions, start, resumes=False)
    if wanted is not None:
        _log.warning("replay_has_begun", group=group, ignored=f"--from {wanted}")
    start = find_start(admin, kafka.documents_topic, partitions)
    committed = {each: at.offset for each, at in found.items()}
    return Plan(settings, partitions, start.resumed(committed), resumes=True)


def estimate(plan: Plan, question: Question) -> ReplayEstimate:
    """Say what a replay would take, from a sample of the topic; nothing is changed.

    Raises:
        UsageError: A GPU is unknown, or a price is missing.
        ConfigError: The model is not to be had, or the output holds vectors of another dimension.
        ServiceUnavailableError: No broker answers.
    """
    _, shape, _ = open_model(plan.settings.encoder)
    _refuse_other_model(make_admin(plan.settings.kafka), plan.settings, shape.dim)
    return estimate_replay(plan.settings, plan.start, question, resumes=plan.resumes)


def _refuse_other_model(
    admin: AdminClient, settings: Settings, dim: int, fingerprints: Sequence[str] = ()
) -> None:
    """Refuse an output topic that another model has written to.

    Args:
        admin: Of the cluster.
        settings: Of the replay.
        dim: Of the model's vectors.
        fingerprints: Of the model, and what that was under earlier splitters, which is told by name where
            every daemon is admitted; none where the model is not loaded.

    Raises:
        ConfigError: The topic holds embeddings of another dimension or fingerprint.
        ServiceUnavailableError: No broker answers.
    """
    kafka = settings.kafka
    try:
        found = first_embedding(admin, kafka)
    except ConfigError:
        return  # it is yet to be made
    if found is None:
        return
    if found["dim"] != dim or (fingerprints and found["model_fingerprint"] not in fingerprints):
        own = f"{dim} dimensions" + (f", fingerprint {fingerprints[0]}" if fingerprints else "")
        raise ConfigError(
            f"--output {kafka.embeddings_topic} holds vectors of {found['model']} ({found['dim']} dimensions,"
            f" fingerprint {found['model_fingerprint']}), and {settings.encoder.model} has {own}",
            "name another --output",
        )


def _refuse_other_group(plan: Plan, info: ModelInfo) -> None:
    """Refuse a group that another model's daemons are in, or were: of a replay whose output is gone, say."""
    kafka, group = plan.settings.kafka, plan.settings.consumer.group
    found = committed_offsets(kafka, group, kafka.documents_topic, range(plan.partitions))
    for at in found.values():
        # What an earlier splitter has begun is told by name, where every daemon is admitted.
        if at.metadata not in ("", None, info.fingerprint, *info.earlier):
            raise ConfigError(
                f"--output {kafka.embeddings_topic}: its group {group!r} belongs to a model with fingerprint"
                f" {at.metadata}, and {plan.settings.encoder.model} has {info.fingerprint}",
                "name another --output",
            )


def run_replay(plan: Plan, tell: Callable[[Plan], None]) -> None:
    """Begin the replay, or join it, and be one of its daemons.

    Args:
        plan: From `plan_replay`.
        tell: Called once the replay has begun, before its first daemon joins.

    Raises:
        EmbedstreamError: See `_begin` and `consumer.daemon.Daemon.run`.
    """
    from consumer.process import run_daemon

    def prepare(info: ModelInfo) -> None:
        _begin(plan, info)
        tell(plan)
        tell_progress(plan.settings.kafka, plan.settings.consumer.group, plan.start)

    run_daemon(plan.settings, prepare=prepare)


def _begin(plan: Plan, info: ModelInfo) -> None:
    """Make the topics, and commit where every partition begins; what is there already is left.

    Raises:
        ConfigError: The output is another model's; the group has members but no offsets; or the broker has
            forgotten the offsets of a replay that has output.
        ServiceUnavailableError: No broker answers.
    """
    from consumer.admission import admit
    from consumer.topics import Topics

    settings = plan.settings
    kafka, group = settings.kafka, settings.consumer.group
    admin = make_admin(kafka)
    _refuse_other_model(admin, settings, info.dim, (info.fingerprint, *info.earlier))
    _refuse_other_group(plan, info)
    # As many copies as the documents have.
    made = create_topics(kafka, plan.partitions, copies_of(admin, kafka.documents_topic))
    for problem in made.problems:
        if problem.topic != kafka.documents_topic:
            _log.warning("topic_problem", topic=problem.topic, problem=str(problem))
    # Before the offsets: once they are there, nothing tells that others were forgotten.
    admit(admin, settings, Topics(admin, kafka), info.fingerprint, info.earlier)
    with GroupOffsets(kafka, group) as offsets:
        begun = commit_start(offsets, kafka.documents_topic, plan.start, info.fingerprint)
    _log.info(
        "replay_begun" if begun else "replay_joined",
        group=group,
        output=kafka.embeddings_topic,
        offsets=dict(plan.start.begin),
        records=plan.start.records,
    )
