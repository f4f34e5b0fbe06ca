"""Finds the documents topic and the ledger that belongs to it, and brings that up to date before a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from embedstream.errors import ConfigError
from embedstream.kafka import all_topics, make_admin, topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import Settings
from embedstream.state_folder import state_folder
from producer.ledger import Identity, Ledger, set_aside
from producer.ledger_recovery import recover

__all__ = ["Topic", "connect", "open_ledger"]

_TIMEOUT_SECONDS = 10.0
# A topic's name may have 249 characters, a file's 255, and SQLite puts suffixes behind it.
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Topic:
    """The documents topic.

    Attributes:
        admin: A client of its cluster.
        identity: What a ledger is compared with.
        partitions: How many it has.
    """

    admin: AdminClient
    identity: Identity
    partitions: int


def connect(settings: Settings) -> Topic:
    """Find the topic.

    Raises:
        ServiceUnavailableError: No broker answers.
        ConfigError: The topic does not exist.
    """
    kafka = settings.kafka
    admin = make_admin(kafka)
    found = all_topics(admin)
    partitions = topic_partitions(admin, kafka.documents_topic, "kafka.documents_topic", found=found)
    topic_id = _topic_id(admin, kafka.documents_topic)
    identity = Identity(found.cluster_id or "", kafka.documents_topic, topic_id)
    return Topic(admin, identity, partitions)


def open_ledger(settings: Settings, topic: Topic, stopped: Callable[[], bool]) -> Ledger | None:
    """Open the ledger of the topic; None where the settings want none.

    If the last run was killed, or the ledger is made anew, the topic is read from where the ledger ends.

    Args:
        settings: `kafka` and `producer` are used.
        topic: As `connect` returns it.
        stopped: Whether to end early; the ledger then stays as unclean as it was.

    Raises:
        ConfigError: The ledger can't be opened or is about another cluster or topic.
        TryAgainError: Another run uses it, or its disk is full.
        ServiceUnavailableError: No broker answers any more.
    """
    if settings.producer.ledger == "none":
        return None
    path = _path(settings.producer.ledger, topic.identity)
    if settings.producer.ledger_from_topic:
        set_aside(path)
    ledger = Ledger.open(path, topic.identity)
    try:
        _bring_up_to_date(settings, topic, ledger, stopped)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _bring_up_to_date(settings: Settings, topic: Topic, ledger: Ledger, stopped: Callable[[], bool]) -> None:
    partitions = range(topic.partitions)
    name = settings.kafka.documents_topic
    begins, ends = start_offsets(topic.admin, name, partitions), end_offsets(topic.admin, name, partitions)
    if settings.producer.ledger_from_topic:
        # From here on a kill leaves a ledger that the next run goes on with.
        ledger.begin_run(begins)
        ledger.unclean = True
    known = ledger.offsets()
    if any(ends.get(partition, 0) < offset for partition, offset in known.items()):
        raise ConfigError(
            f"topic {name!r} holds less than producer.ledger {ledger.path} knows of: it was made anew, or"
            " has lost records",
            "let --ledger-from-topic make the ledger anew, or name another with --ledger",
        )
    if ledger.unclean:
        starts = {each: max(begins[each], known.get(each, 0)) for each in partitions}
        recover(settings.kafka, ledger, starts, ends, stopped)
    if not stopped():
        ledger.begin_run(ends)


def _path(setting: str, identity: Identity) -> Path:
    """Return where the ledger is: unless one is named, one for each topic in the user's folder for state."""
    if setting != "auto":
        return Path(setting)
    # A topic that is made anew has another id, and gets another ledger.
    parts = (identity.topic, identity.cluster_id, identity.topic_id)
    name = "-".join(_as_name(part) for part in parts if part)
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        name = f"{name[: _LONGEST_NAME - len(digest)]}-{digest}"
    return state_folder() / "embedstream" / f"{name}.ledger"


def _as_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)


def _topic_id(admin: AdminClient, topic: str) -> str:
    """Return the id that tells a topic from another of its name; empty where the broker tells none."""
    try:
        asked = admin.describe_topics(TopicCollection([topic]), request_timeout=_TIMEOUT_SECONDS)
        found = str(asked[topic].result().topic_id)
    except (KafkaException, KeyError, ValueError):
        return ""
    return "" if set(found) == {"A"} else found
