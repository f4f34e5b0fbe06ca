"""What the poller makes of a member id; Kafka's own part is in the integration and fault tests."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from consumer.ownership import Ownership
from consumer.poll import FENCED, Poller
from consumer.queues import BoundedQueue
from consumer.records import Polled
from embedstream.errors import TryAgainError
from embedstream.metrics import Metrics


class Event:
    """What tells that a partition holds nothing more, or of an error."""

    def __init__(
        self,
        partition: tuple[str, int],
        offset: int = 0,
        code: int = KafkaError._PARTITION_EOF,
        reason: str | None = None,
    ) -> None:
        self._partition = partition
        self._offset = offset
        self._error = KafkaError(code, reason)

    def topic(self) -> str:
        return self._partition[0]

    def partition(self) -> int:
        return self._partition[1]

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError:
        return self._error


KEPT, NEW, OTHER = ("documents", 1), ("documents", 2), ("documents", 4)


class Member:
    """As much of a consumer as the group's callbacks ask for."""

    def __init__(self) -> None:
        self.name = "first"
        self.callbacks: dict[str, Any] = {}
        self.subscribed = 0
        self.left = 0
        self.is_fenced = self.closed = False
        self._assigned: list[TopicPartition] = []
        self.messages: list[Any] = []
        self.offsets: dict[tuple[str, int], int] = {}
        self.asked: list[tuple[str, int]] = []
        self.placed: dict[tuple[str, int], int | None] = {}
        self.begun: list[dict[tuple[str, int], int]] = []

    def subscribe(self, _: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks
        self.subscribed += 1

    def unsubscribe(self) -> None:
        self.left += 1
        if self.is_fenced:
            raise KafkaException(KafkaError(KafkaError._FATAL))

    def close(self) -> None:
        self.closed = True

    def assignment(self) -> list[TopicPartition]:
        return self._assigned

    def poll(self, _: float) -> None:
        """The group takes all back."""
        partitions, self._assigned = self._assigned, []
        self.callbacks["on_revoke"](self, partitions)

    def consume(self, *_: Any) -> list[Any]:
        messages, self.messages = self.messages, []
        return messages

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        asked = [(each.topic, each.partition) for each in partitions]
        self.asked += asked
        if not self.offsets.keys() >= set(asked):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(*each, self.offsets[each]) for each in asked]

    def place(self, topic: str, partition: int, offset: int | None) -> TopicPartition:
        self.placed[topic, partition] = offset
        return TopicPartition(topic, partition, OFFSET_BEGINNING if offset is None else offset)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self.begun.append({})

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.begun[-1] = {(each.topic, each.partition): each.offset for each in partitions}

    def pause(self, _: list[TopicPartition]) -> None:
        pass

    def memberid(self) -> str:
        return self.name

    def consumer_group_metadata(self) -> str:
        return f"metadata of {self.name}"

    def assigned(self, *partitions: tuple[str, int]) -> None:
        self._assigned = [TopicPartition(*each) for each in partitions]
        self.callbacks["on_assign"](self, self._assigned)


def joined(inputs: BoundedQueue[Polled] | None = None) -> tuple[Member, Ownership, Poller]:
    """A member that was assigned a partition."""
    member, ownership = Member(), Ownership()
    poller = Poller(
        member,  # type: ignore[arg-type]
        "documents",
        BoundedQueue(1) if inputs is None else inputs,
        ownership,
        Metrics(),
        revoke_seconds=0.0,
        max_poll_seconds=1.0,
        pending_seconds=0.0,
        place=lambda _, *given: member.place(*given),
    )
    poller.subscribe()
    member.assigned(KEPT)
    return member, ownership, poller


def test_a_partition_is_kept_when_the_same_member_is_assigned_another() -> None:
    member, ownership, _ = joined()
    number = ownership.number(KEPT)
    member.assigned(NEW)
    assert ownership.number(KEPT) == number
    assert ownership.partitions == {KEPT, NEW}


def test_a_partition_that_was_kept_under_another_member_id_is_withdrawn() -> None:
    member, ownership, _ = joined()
    member.name = "second"
    member.assigned(NEW)
    assert ownership.partitions == {NEW}


def test_a_transaction_finds_out_first_that_the_member_id_has_changed() -> None:
    member, ownership, poller = joined()
    assert poller.group_metadata(member) == "metadata of first"  # type: ignore[arg-type]
    assert ownership.partitions == {KEPT}
    member.name = "second"
    poller.group_metadata(member)  # type: ignore[arg-type]
    assert not ownership.partitions


def test_a_member_that_is_to_join_again_gives_its_partitions_back_first() -> None:
    member, ownership, poller = joined()
    poller.join_again([0])
    poller.run(lambda: member.subscribed > 1, reading=lambda: True)
    assert member.left == 1
    assert not ownership.partitions


def test_a_daemon_that_is_ending_does_not_join_again() -> None:
    member, ownership, poller = joined()
    poller.join_again([0])
    rounds = iter([False, False, True])
    poller.run(lambda: next(rounds), reading=lambda: False)
    assert member.left == 0
    assert ownership.partitions == {KEPT}


def test_a_fenced_member_does_not_try_to_join_again() -> None:
    member, ownership, poller = joined()
    member.name = "second"
    poller.group_metadata(member)  # type: ignore[arg-type]
    member.is_fenced = True
    member.messages = [Event(KEPT, code=KafkaError._FATAL, reason=FENCED)]
    rounds = iter([False, False, True])
    poller.run(lambda: next(rounds), reading=lambda: True)
    assert poller.is_fenced()
    assert member.left == 0
    assert not ownership.partitions


def test_what_comes_to_a_daemon_that_is_ending_is_left() -> None:
    """As when it is given a partition at that moment, and its records come with the same call."""
    inputs: BoundedQueue[Polled] = BoundedQueue(1)
    member, _, poller = joined(inputs)
    member.messages = [Event(KEPT)]
    inputs.close(discard=True)
    rounds = iter([False, True])
    poller.run(lambda: next(rounds), reading=lambda: False)
    assert not member.messages


def test_a_fenced_member_that_takes_no_call_any_more_can_still_be_closed() -> None:
    member, _, poller = joined()
    member.is_fenced = True
    poller.leave()
    assert member.left == 1
    assert member.closed


def told_silent(poller: Poller, rounds: int = 3) -> list[list[int]]:
    """The partitions that are told to be without an offset, round by round."""
    left = iter(range(rounds))
    with structlog.testing.capture_logs() as logs:
        poller.run(lambda: next(left, None) is None, reading=lambda: True)
    return [each["partitions"] for each in logs if each["event"] == "partitions_without_offset"]


def test_partitions_whose_offsets_do_not_come_are_told_again_and_again() -> None:
    member, _, poller = joined()
    member.messages = [Event(KEPT)]
    member.assigned(NEW)
    assert told_silent(poller) == [[NEW[1]]] * 3
    # Something has come of the other one: it was not asked for.
    assert KEPT not in member.asked


def test_only_the_partition_whose_offset_does_not_come_is_told() -> None:
    member, _, poller = joined()
    member.assigned(NEW)
    member.offsets = {KEPT: 7}
    assert told_silent(poller, 1) == [[NEW[1]]]
    assert not member.placed


def test_a_partition_that_the_client_has_no_offset_for_begins_where_the_group_is() -> None:
    member, _, poller = joined()
    member.messages = [Event(KEPT, OFFSET_INVALID, KafkaError._AUTO_OFFSET_RESET)]
    member.offsets = {KEPT: 7}
    told_silent(poller, 1)
    assert member.placed == {KEPT: 7}


def test_partitions_that_the_client_stopped_to_fetch_begin_together() -> None:
    """One that begins later would wait until a fetch of the others is back: half a second of each start."""
    member, _, poller = joined()
    member.assigned(NEW, OTHER)
    expired, unknown = (KEPT, 3), [(each, OFFSET_INVALID) for each in (NEW, OTHER)]
    member.messages = [Event(*each, KafkaError._AUTO_OFFSET_RESET) for each in (expired, *unknown)]
    member.offsets = {NEW: 7, OTHER: OFFSET_INVALID}
    told_silent(poller, 1)
    assert member.placed == {KEPT: 3, NEW: 7, OTHER: None}
    assert member.begun == [{KEPT: 3, NEW: 7, OTHER: OFFSET_BEGINNING}]


def test_a_partition_whose_offset_may_be_pending_is_not_begun() -> None:
    member, _, poller = joined()
    member.messages = [Event(KEPT, OFFSET_INVALID, KafkaError._AUTO_OFFSET_RESET)]
    with pytest.raises(TryAgainError, match="does not come"):
        told_silent(poller, 1)
    assert not member.placed


def test_partitions_that_were_taken_away_are_not_waited_for() -> None:
    member, _, poller = joined()
    member.callbacks["on_revoke"](member, [TopicPartition(*KEPT)])
    assert told_silent(poller) == []
    assert not member.asked
