"""What the settings of the three topics must be, and what comes of others; no Kafka client in here.

The embeddings topic is a log of versions and the input of `verify`, not a table: nothing in it may be
compacted or expire, and the same holds for the documents and the dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Problem", "Role", "Tools", "Topic", "check", "check_room", "settings_of_new"]

Role = Literal["documents", "embeddings", "dead_letters"]

# The documents topic leaves room for a segment of 256 KiB and its metadata; a dead letter is such a record
# with headers, or one that was written under a larger limit.
MAX_MESSAGE_BYTES: Mapping[Role, int] = {
    "documents": 2 * 1024 * 1024,
    "embeddings": 1024 * 1024,
    "dead_letters": 4 * 1024 * 1024,
}
KEEPS_EVERYTHING = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

_YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Problem:
    """What is wrong with one topic.

    Attributes:
        topic: Its name.
        setting: The topic's setting, or `partitions`, or empty when the topic is missing.
        message: What was found and what comes of it.
        mend: What to do.
        serious: Whether records can be lost, refused or reported missing; False for a word of caution.
    """

    topic: str
    setting: str
    message: str
    mend: str
    serious: bool = True

    def __str__(self) -> str:
        return f"{self.topic}: {self.message}: {self.mend}"


@dataclass(frozen=True)
class Topic:
    """A topic as the broker tells it.

    Attributes:
        name: Its name.
        partitions: How many it has.
        replicas: The fewest copies that a partition has.
        settings: In force, the broker's defaults included; None where the broker does not tell them.
        reason: Why it does not.
    """

    name: str
    partitions: int
    replicas: int
    settings: Mapping[str, str] | None
    reason: str = ""


@dataclass(frozen=True)
class Tools:
    """The commands of Kafka's own tools that mend a topic of the cluster at `bootstrap_servers`."""

    bootstrap_servers: str

    def set(self, topic: str, setting: str, value: str) -> str:
        """The command that changes a setting."""
        return (
            f"kafka-configs.sh --bootstrap-server {self.bootstrap_servers} --alter --entity-type topics"
            f" --entity-name {topic} --add-config {setting}={value}"
        )

    def add_partitions(self, topic: str, partitions: int) -> str:
        """The command that adds partitions."""
        return (
            f"kafka-topics.sh --bootstrap-server {self.bootstrap_servers} --alter --topic {topic}"
            f" --partitions {partitions}"
        )


def settings_of_new(role: Role, replication: int | None) -> dict[str, str]:
    """The settings to make a topic with; `replication` None is the broker's default."""
    settings = KEEPS_EVERYTHING | {"max.message.bytes": str(MAX_MESSAGE_BYTES[role])}
    # An acknowledged record must survive the loss of one broker.
    return settings | {"min.insync.replicas": "2"} if (replication or 1) >= 3 else settings


def check(
    topics: Mapping[Role, Topic], names: Mapping[Role, str], tools: Tools, brokers: int = 1
) -> list[Problem]:
    """Say what is wrong, topic by topic.

    Args:
        topics: The topics that exist.
        names: What each of the three is called.
        tools: Words the mends.
        brokers: How many the cluster has.
    """
    documents = topics.get("documents")
    problems: list[Problem] = []
    for role, name in names.items():
        topic = topics.get(role)
        if topic is None:
            mend = "make it with `embedstream topics create`"
            problems.append(Problem(name, "", "the topic does not exist", mend))
            continue
        if documents is not None:
            problems.extend(_check_partitions(role, topic, documents, tools))
        if topic.settings is None:
            problems.append(_untold(role, topic))
        else:
            problems.extend(_check_cleanup(role, topic.name, topic.settings, tools))
            problems.extend(_check_size(role, topic.name, topic.settings, documents, tools))
            problems.extend(_check_durability(topic, topic.settings, tools, brokers))
    return problems


def _untold(role: Role, topic: Topic) -> Problem:
    wanted = KEEPS_EVERYTHING | {"max.message.bytes": str(MAX_MESSAGE_BYTES[role])}
    return Problem(
        topic.name,
        "",
        f"the broker does not tell its settings ({topic.reason})",
        "see by other means that they are " + ", ".join(f"{key}={value}" for key, value in wanted.items()),
        serious=False,
    )


def _check_partitions(role: Role, topic: Topic, documents: Topic, tools: Tools) -> Iterator[Problem]:
    if topic.partitions >= documents.partitions:
        return
    counted = f"it has {topic.partitions} partitions and {documents.name} has {documents.partitions}"
    mend = tools.add_partitions(topic.name, documents.partitions)
    if role == "dead_letters":
        # A dead letter goes to the partition number of its input record.
        yield Problem(topic.name, "partitions", f"{counted}, so some dead letters have nowhere to go", mend)
    else:
        message = f"{counted}, so several input partitions share one"
        yield Problem(topic.name, "partitions", message, mend, serious=False)


def _check_cleanup(role: Role, name: str, settings: Mapping[str, str], tools: Tools) -> Iterator[Problem]:
    policies = settings.get("cleanup.policy", "delete").replace(" ", "").split(",")
    mend = tools.set(name, "cleanup.policy", "delete")
    if "compact" in policies and role == "embeddings":
        kept = int(settings.get("delete.retention.ms", "0"))
        if kept < 2 * _YEAR_MS:
            message = (
                "it is compacted, so a deletion's marker disappears and the vectors stay"
                f" (delete.retention.ms is {_duration(kept)})"
            )
            mend += f", or keep the markers for years with delete.retention.ms={10 * _YEAR_MS}"
            yield Problem(name, "cleanup.policy", message, mend)
        else:
            message = "it is compacted, so `verify` reports passages that were sent again as missing"
            yield Problem(name, "cleanup.policy", message, mend, serious=False)
    elif "compact" in policies:
        message = "it is compacted, so of the records with one document id only the last stays"
        yield Problem(name, "cleanup.policy", message, mend)
    if "delete" not in policies:
        return
    for setting in ("retention.ms", "retention.bytes"):
        limit = int(settings.get(setting, "-1"))
        if limit >= 0:
            shown = _duration(limit) if setting == "retention.ms" else f"{limit} bytes"
            message = f"{setting} is {shown}, so older records are deleted"
            yield Problem(name, setting, message, tools.set(name, setting, "-1"))


def _check_size(
    role: Role, name: str, settings: Mapping[str, str], documents: Topic | None, tools: Tools
) -> Iterator[Problem]:
    setting = "max.message.bytes"
    needed = MAX_MESSAGE_BYTES[role]
    if role == "dead_letters" and documents is not None and documents.settings is not None:
        # The largest document that the other topic takes, with a dead letter's headers.
        needed = max(needed, int(documents.settings.get(setting, 0)) + 64 * 1024)
    found = int(settings.get(setting, needed))
    if found < needed:
        message = f"{setting} is {found}, and one larger record stops the transaction that it is in"
        yield Problem(name, setting, message, tools.set(name, setting, str(needed)))


def check_room(
    topics: Mapping[Role, Topic], needed: Mapping[str, float], disk: int, brokers: int
) -> list[Problem]:
    """Say whether the brokers' disks can carry the whole job.

    Args:
        topics: The topics that exist; their copies count.
        needed: Bytes before replication: `disk_bytes` of `embedstream estimate --json`.
        disk: Free bytes of each broker.
        brokers: How many there are.
    """
    copies = {role: topic.replicas for role, topic in topics.items()}
    documents = needed["documents"] * copies.get("documents", 1)
    whole = documents + (needed["all"] - needed["documents"]) * copies.get("embeddings", 1)
    # Segments are closed and leaders spread unevenly.
    if whole <= 0.9 * disk * brokers:
        return []
    message = (
        f"the job takes {whole / 1e9:,.0f} GB with all copies, and {brokers} brokers have"
        f" {disk * brokers / 1e9:,.0f} GB free"
    )
    mend = "give them more disk, make fewer copies, or store fewer dimensions (--truncate-dim)"
    return [Problem("disk", "", message, mend)]


def _check_durability(
    topic: Topic, settings: Mapping[str, str], tools: Tools, brokers: int
) -> Iterator[Problem]:
    in_sync = int(settings.get("min.insync.replicas", "1"))
    if in_sync > topic.replicas:
        message = (
            f"min.insync.replicas is {in_sync} and it has {topic.replicas} copies, so nothing can be written"
        )
        mend = tools.set(topic.name, "min.insync.replicas", str(topic.replicas))
        yield Problem(topic.name, "min.insync.replicas", message, mend)
    elif in_sync == topic.replicas > 1:
        message = f"min.insync.replicas is {in_sync}, all of its copies, so losing one broker stops the job"
        mend = tools.set(topic.name, "min.insync.replicas", str(in_sync - 1))
        yield Problem(topic.name, "min.insync.replicas", message, mend, serious=False)
    if topic.replicas < 3 <= brokers:
        message = (
            f"it has {topic.replicas} copies though there are {brokers} brokers, so failing disks can lose it"
        )
        mend = "make it anew with `embedstream topics create --replication 3`, or reassign its partitions"
        yield Problem(topic.name, "replication", message, mend, serious=False)

    setting = "unclean.leader.election.enable"
    if settings.get(setting) == "true":
        message = f"{setting} is true, so acknowledged records can be lost when brokers fail"
        yield Problem(topic.name, setting, message, tools.set(topic.name, setting, "false"))
    setting = "min.insync.replicas"
    if topic.replicas >= 3 and settings.get(setting) == "1":
        message = f"{setting} is 1, so the loss of one broker can lose acknowledged records"
        yield Problem(topic.name, setting, message, tools.set(topic.name, setting, "2"), serious=False)


def _duration(milliseconds: int) -> str:
    for unit, size in (("years", _YEAR_MS), ("days", 86_400_000), ("hours", 3_600_000)):
        if milliseconds >= 2 * size:
            return f"{milliseconds / size:.4g} {unit}"
    return f"{milliseconds / 1000:.4g} seconds"
