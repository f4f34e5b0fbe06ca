"""What the broker tells about the members of a group, of the classic protocol and of the newer one."""

from __future__ import annotations

import pytest

from consumer.unowned import shares_of
from embedstream.group_members import classic_group, described_members
from embedstream.kafka import make_admin, make_consumer
from tests.brokers import on_apache
from tests.kafka import Topics, wait_until


@pytest.mark.parametrize("instance_id", ["", "static-member"])
def test_the_partitions_of_each_member_are_told_once_the_group_is_settled(
    topics: Topics, instance_id: str
) -> None:
    admin, group = make_admin(topics.kafka), f"{topics.documents}-{instance_id}"
    assert shares_of(admin, group, topics.documents) is None
    consumer = make_consumer(
        topics.kafka,
        group_id=group,
        partition_assignment_strategy="cooperative-sticky",
        **({"group_instance_id": instance_id} if instance_id else {}),
    )
    consumer.subscribe([topics.documents, topics.embeddings])

    def has_joined() -> bool:
        consumer.poll(0.1)
        return len(consumer.assignment()) == 6

    wait_until(has_joined, 30, "it has not joined")
    for topic in (topics.documents, topics.embeddings):
        assert shares_of(admin, group, topic) == {consumer.memberid(): {0, 1, 2}}
    assert shares_of(admin, group, topics.dead_letters) == {consumer.memberid(): set()}
    consumer.close()


@on_apache
def test_members_with_the_consumer_protocol_are_told_only_by_the_call_that_a_daemon_must_not_use(
    topics: Topics,
) -> None:
    admin, group = make_admin(topics.kafka), topics.documents
    assert described_members(admin, group, topics.documents) == ()
    consumer = make_consumer(topics.kafka, group_id=group, group_protocol="consumer")
    consumer.subscribe([topics.documents])

    def has_joined() -> bool:
        consumer.poll(0.1)
        return len(consumer.assignment()) == 3

    wait_until(has_joined, 30, "it has not joined")
    assert classic_group(admin, group, topics.documents) is None
    members = described_members(admin, group, topics.documents)
    assert [each.partitions for each in members or ()] == [(0, 1, 2)]
    consumer.close()
