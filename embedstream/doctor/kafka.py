"""Kafka: whether it answers, what it speaks, the topics, the rights of this user, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from embedstream.doctor.api_versions import VersionLog, lacking
from embedstream.doctor.finding import Finding, failed, from_error, ok, skipped, warning
from embedstream.errors import ConfigError, EmbedstreamError
from embedstream.kafka import all_topics, describe_error, make_admin
from embedstream.offsets import GroupOffsets
from embedstream.settings import Settings
from embedstream.topics import check_topics

__all__ = ["look", "told_of_rights"]

TIMEOUT_SECONDS = 10.0
# Machines that are kept right differ by milliseconds; a version is one, too.
CLOCK_SECONDS = 5.0
OUTPUT = frozenset({"READ", "WRITE", "DESCRIBE_CONFIGS"})
# What each role does with each topic, as deploy/kafka/acls.sh allows it.
ROLES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "produce": {"documents": OUTPUT},
    "consume": {"documents": frozenset({"READ"}), "embeddings": OUTPUT, "dead_letters": OUTPUT},
    "read": dict.fromkeys(("documents", "embeddings", "dead_letters"), frozenset({"READ"})),
}


def look(settings: Settings) -> Iterator[Finding]:
    """Yield what Kafka is like; where it does not answer, the rest is not looked at."""
    kafka, version_log = settings.kafka, VersionLog()
    began = time.monotonic()
    try:
        admin = make_admin(kafka, debug="feature", logger=version_log)
        metadata = all_topics(admin)
    except EmbedstreamError as error:
        yield from_error("broker", error)
        for check in ("api versions", "topics", "rights", "group", "broker's clock"):
            yield skipped(check, "needs a broker that answers")
        return
    took = time.monotonic() - began
    admin.poll(0)  # hands over what the client has logged
    count = len(metadata.brokers)
    yield ok("broker", f"{kafka.bootstrap_servers} answers in {took:.2f} s, {count} in the cluster")
    names = {role: getattr(kafka, f"{role}_topic") for role in ROLES["consume"]}
    there = [role for role, name in names.items() if name in metadata.topics]
    partitions = sorted(metadata.topics[kafka.documents_topic].partitions) if "documents" in there else []
    # A broker with ACLs hides the topics that a user may not describe.
    may_hide = "sasl.username" in kafka.client
    yield _versions(version_log, settings)
    yield from _topics(settings, may_hide)
    if there and (may_hide or len(there) == len(names)):
        yield _rights(admin, names, there)
    else:
        yield skipped("rights", "needs the three topics")
    yield _group(settings, partitions)
    yield _clock(admin, kafka.documents_topic, partitions)


def _versions(version_log: VersionLog, settings: Settings) -> Finding:
    if not version_log.versions:
        return skipped("api versions", "the broker does not tell them")
    missing = lacking(version_log.versions, settings.consumer)
    if missing:
        told = "the broker lacks " + "; ".join(missing)
        return failed("api versions", told, "take Apache Kafka 4 or what speaks its protocol")
    return ok("api versions", f"{len(version_log.versions)} requests, all that this program needs among them")


def _topics(settings: Settings, may_hide: bool) -> Iterator[Finding]:
    try:
        problems = check_topics(settings.kafka)
    except EmbedstreamError as error:
        yield from_error("topics", error)
        return
    if not problems:
        yield ok("topics", "the three are there, and keep everything")
    for each in problems:
        told = f"{each.topic}: {each.message}"
        if not each.setting and may_hide:
            mend = f"{each.mend}; a user that only produces, or only reads, need not see them all"
            yield warning("topics", f"{told}, or this user may not see it", mend)
        else:
            yield (failed if each.serious else warning)("topics", told, each.mend)


def _rights(admin: AdminClient, names: Mapping[str, str], there: list[str]) -> Finding:
    """What this user may do, as the broker tells it; a transactional id's right is only known by using it."""
    found: dict[str, frozenset[str] | None] = dict.fromkeys(names, frozenset())
    try:
        asked: Mapping[str, Any] = admin.describe_topics(
            TopicCollection([names[role] for role in there]),
            include_authorized_operations=True,
            request_timeout=TIMEOUT_SECONDS,
        )
        for role in there:
            operations = asked[names[role]].result().authorized_operations
            found[role] = None if operations is None else frozenset(each.name for each in operations)
    except KafkaException as error:
        return skipped("rights", f"the broker does not tell them ({describe_error(error.args[0])})")
    if any(each is None for each in found.values()):
        return skipped("rights", "the broker does not tell them")
    return told_of_rights({role: rights or frozenset() for role, rights in found.items()}, names)


def told_of_rights(found: Mapping[str, frozenset[str]], topics: Mapping[str, str]) -> Finding:
    """What the rights on each topic allow; it has failed where they are enough for no role.

    Args:
        found: The rights by topic, as `documents`, `embeddings` and `dead_letters`.
        topics: What these are called.
    """
    lacks = {
        role: [
            f"{right} on {topics[topic]}"
            for topic, rights in wanted.items()
            for right in sorted(rights - found[topic])
        ]
        for role, wanted in ROLES.items()
    }
    may = [role for role, missing in lacks.items() if not missing]
    told = "; ".join(f"to {role} it lacks {', '.join(missing)}" for role, missing in lacks.items() if missing)
    if may:
        return ok("rights", f"this user may {', '.join(may)}" + (f" ({told})" if told else ""))
    return failed("rights", told, "give it the ACLs of its role (deploy/kafka/acls.sh lists them)")


def _group(settings: Settings, partitions: list[int]) -> Finding:
    """Whether this user may ask for the group's offsets, and whether it has any."""
    group = settings.consumer.group
    if not partitions:
        return skipped("group", "needs the documents topic")
    try:
        with GroupOffsets(settings.kafka, group) as offsets:
            committed = offsets.read(settings.kafka.documents_topic, partitions)
    except ConfigError as error:
        mend = f"{error.mend}; a user that only produces needs no group"
        return warning("group", f"{group!r}: {error.message}", mend)
    except EmbedstreamError as error:
        return from_error("group", error)
    told = "has committed offsets" if committed else "is new: a daemon begins at the beginning"
    return ok("group", f"{group!r} {told}")


def _clock(admin: AdminClient, topic: str, partitions: list[int]) -> Finding:
    """Whether a record comes from the future: the newest version of a document counts, whoever wrote it."""
    check = "broker's clock"
    if not partitions:
        return skipped(check, "needs the documents topic")
    try:
        asked = admin.list_offsets(
            {
                TopicPartition(topic, each): OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
                for each in partitions
            },
            request_timeout=TIMEOUT_SECONDS,
        )
        newest = max(future.result().timestamp for future in asked.values())
    except KafkaException as error:
        return skipped(check, f"the broker does not tell the newest record ({describe_error(error.args[0])})")
    if newest <= 0:
        return skipped(check, f"{topic} is empty, or the broker does not tell its newest record")
    ahead = newest / 1000 - time.time()
    if ahead > CLOCK_SECONDS:
        told = f"the newest record of {topic} is {ahead:,.0f} s ahead of this machine"
        return warning(check, told, "set this clock right, and that of the machine that produces")
    return ok(check, f"no record of {topic} is ahead of this machine's clock")
