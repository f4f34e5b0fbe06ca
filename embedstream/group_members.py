"""The members of a consumer group and their partitions, asked for in a way that a daemon survives.

The client's own call, `describe_consumer_groups`, ends the whole process where the group's coordinator is out
of reach or has just moved (librdkafka's issue 4605, open in 2.16). So the older `list_groups` is asked, which
the client calls deprecated. Of a group with the newer consumer protocol that tells nothing: only commands
whose end costs nothing but themselves may go on to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

__all__ = ["Group", "Member", "classic_group", "described_members"]

REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Member:
    """A daemon of the group: its id, its client's name, where it is, and its partitions of the topic."""

    id: str
    client_id: str
    host: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the classic protocol.

    Attributes:
        is_settled: No rebalance goes on.
        members: Those of the group.
    """

    is_settled: bool
    members: tuple[Member, ...]


def classic_group(admin: AdminClient, group: str, topic: str) -> Group | None:
    """Return a group with the members' partitions of a topic; None if there is none such, or nobody says."""
    try:
        found = admin.list_groups(group, timeout=REQUEST_SECONDS)
    except KafkaException:
        return None
    for each in found:
        if each.id == group and each.error is None and each.state != "Dead":
            members = tuple(
                Member(one.id, one.client_id, one.client_host, _assigned(one.assignment, topic))
                for one in each.members
            )
            return Group(each.state == "Stable", members)
    return None


def described_members(admin: AdminClient, group: str, topic: str) -> tuple[Member, ...] | None:
    """Return the members of a group of either protocol; None where nobody says. Not for a daemon."""
    try:
        described = admin.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS)[group].result()
    except KafkaException as error:
        return () if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None
    return tuple(
        Member(
            each.member_id,
            each.client_id,
            each.host,
            tuple(sorted(p.partition for p in each.assignment.topic_partitions if p.topic == topic)),
        )
        for each in described.members
    )


def _assigned(assignment: bytes, topic: str) -> tuple[int, ...]:
    """The partitions of a topic in an assignment of the classic protocol's."""
    partitions: set[int] = set()
    if not assignment:
        return ()
    (topics,), place = unpack_from(">i", assignment, 2), 6
    for _ in range(topics):
        (length,) = unpack_from(">h", assignment, place)
        name = assignment[place + 2 : place + 2 + length].decode()
        place += 2 + length
        (count,) = unpack_from(">i", assignment, place)
        if name == topic:
            partitions.update(unpack_from(f">{count}i", assignment, place + 4))
        place += 4 + 4 * count
    return tuple(sorted(partitions))
