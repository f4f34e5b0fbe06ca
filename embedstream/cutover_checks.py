"""What must hold before an alias is switched: the other topic has all that the live one has."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from embedstream.errors import ConfigError, FindingError
from embedstream.kafka import topic_partitions
from embedstream.offsets import GroupOffsets, committed_offsets, start_offsets
from embedstream.output_begin import first_sources, records_of
from embedstream.retry import read_marks
from embedstream.settings import KafkaSettings, Settings
from embedstream.topic_reader import message_headers, read_partition
from embedstream.verify import verify
from schemas.dead_letter import DeadLetter

__all__ = [
    "Position",
    "expired_records",
    "lost_documents",
    "reach",
    "refuse_late_start",
    "refuse_unverified",
]

_LOOK_SECONDS = 0.2
_NAMED = 5


@dataclass(frozen=True)
class Position:
    """A group and the topics that it reads and writes."""

    kafka: KafkaSettings
    group: str

    def committed(self, partitions: Iterable[int]) -> dict[int, TopicPartition]:
        """What the group has committed of the documents, where it has."""
        return committed_offsets(self.kafka, self.group, self.kafka.documents_topic, partitions)

    def offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The group's offset of each partition that has one."""
        return {each: at.offset for each, at in self.committed(partitions).items()}

    def fingerprint(self, partitions: Iterable[int]) -> str:
        """The fingerprint of the model that the group's offsets name.

        Raises:
            ConfigError: They name none, or several.
        """
        found = {at.metadata for at in self.committed(partitions).values() if at.metadata}
        if len(found) != 1:
            named = ", ".join(sorted(found)) or "no model"
            raise ConfigError(
                f"the offsets of group {self.group!r} name {named}", "a topic must be of one model"
            )
        return str(found.pop())


def reach(
    admin: AdminClient, target: Position, wanted: Mapping[int, int], wait_seconds: float
) -> Mapping[int, int]:
    """Return the target's offsets once they have passed those that are wanted, partition by partition.

    Args:
        admin: Of the cluster.
        target: Whose offsets.
        wanted: Of each partition, the offset to be reached.
        wait_seconds: How long that may take.

    Raises:
        FindingError: It took longer; the message says how many records are missing, and where.
        ConfigError: The group has committed nothing.
        ServiceUnavailableError: No broker answers.
    """
    topic = target.kafka.documents_topic
    partitions = range(topic_partitions(admin, topic, "kafka.documents_topic"))
    starts = start_offsets(admin, topic, partitions)
    deadline = time.monotonic() + wait_seconds
    with GroupOffsets(target.kafka, target.group) as group:
        while True:
            reached = {each: at.offset for each, at in group.read(topic, partitions).items()}
            if not reached:
                raise ConfigError(
                    f"the group {target.group!r} has committed no offsets of {topic!r}",
                    f"begin the replay: `embedstream replay --output {target.kafka.embeddings_topic}`",
                )
            missing = {
                each: offset - reached.get(each, starts[each])
                for each, offset in wanted.items()
                if offset > reached.get(each, starts[each])
            }
            if not missing:
                return reached
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_SECONDS)
    named = ", ".join(f"{topic}/{each}: {count:,}" for each, count in list(missing.items())[:_NAMED])
    more = ", ..." if len(missing) > _NAMED else ""
    raise FindingError(
        f"{sum(missing.values()):,} records are missing in {target.kafka.embeddings_topic}: group"
        f" {target.group!r} lags behind the live one ({named}{more})",
        "try again when its daemons have gone on",
    )


def refuse_late_start(admin: AdminClient, target: Position, reached: Mapping[int, int]) -> None:
    """Refuse a topic whose group did not begin where the documents begin.

    Raises:
        ConfigError: There are records before the first one that the topic has an outcome of.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    topic = target.kafka.documents_topic
    inputs = topic_partitions(admin, topic, "kafka.documents_topic")
    starts, first = start_offsets(admin, topic, range(inputs)), first_sources(admin, target.kafka, inputs)
    late: list[str] = []
    for each, end in sorted(reached.items()):
        began = min(first.get(each, end), end)
        before = read_partition(target.kafka, topic, each, start=starts[each], end=began)
        with closing(before) as records:
            if next(records, None) is not None:
                late.append(f"{topic}/{each} at offset {began}")
    if late:
        more = ", ..." if len(late) > _NAMED else ""
        raise ConfigError(
            f"{target.kafka.embeddings_topic} did not start at the beginning of the documents, but with"
            f" {', '.join(late[:_NAMED])}{more}",
            "only a replay from the beginning can take over: start one into another --output",
        )


def refuse_unverified(settings: Settings, target: Position) -> None:
    """Refuse a topic that lacks an outcome, or has one twice.

    Raises:
        FindingError: `verify` finds something.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    report = verify(settings.model_copy(update={"kafka": target.kafka}), group=target.group)
    if not report.ok:
        found = ", ".join(
            f"{number:,} {what}"
            for number, what in (
                (report.missing, "missing"),
                (report.double, "double"),
                (report.out_of_order, "out of order"),
                (report.unexpected, "unexpected"),
                (len(report.model_fingerprints) - 1, "further models"),
            )
            if number > 0
        )
        kafka = target.kafka
        raise FindingError(
            f"`verify` finds in {kafka.embeddings_topic}: {found}",
            f"`embedstream verify --group {target.group} --embeddings-topic {kafka.embeddings_topic}"
            f" --dead-letters-topic {kafka.dead_letters_topic}` names them",
        )


def lost_documents(
    admin: AdminClient,
    live: Position,
    live_fingerprint: str,
    target: Position,
    fingerprint: str,
    wanted: Mapping[int, int],
) -> int:
    """Count the records that have embeddings in the live topic and are dead letters of the target.

    What was sent back since does not count: the record that it became has an outcome of its own.

    Args:
        admin: Of the cluster.
        live: What readers use now.
        live_fingerprint: Of its model.
        target: What they shall use.
        fingerprint: Of that one's model.
        wanted: Of each partition, the offset up to which the live topic counts.
    """
    dead = {each for each in _dead(admin, target, fingerprint) if each[1] < wanted.get(each[0], 0)}
    if not dead:
        return 0
    dead -= _dead(admin, live, live_fingerprint)
    marks = read_marks(target.kafka)
    topic = target.kafka.documents_topic
    return sum(f"{topic}/{partition}/{offset}" not in marks for partition, offset in dead)


def expired_records(admin: AdminClient, live: Position, target: Position) -> int:
    """Count the offsets that only the live topic has output of, because the documents topic has dropped them.

    A replay begins with what that still holds, so it can't know of them.

    Raises:
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    topic = target.kafka.documents_topic
    inputs = topic_partitions(admin, topic, "kafka.documents_topic")
    starts = start_offsets(admin, topic, range(inputs))
    if not any(starts.values()):
        return 0
    before, after = (first_sources(admin, each.kafka, inputs) for each in (live, target))
    return sum(
        max(0, min(after.get(each, starts[each]), starts[each]) - first) for each, first in before.items()
    )


def _dead(admin: AdminClient, of: Position, fingerprint: str) -> set[tuple[int, int]]:
    """The partitions and offsets of the input records whose dead letters are of a model."""
    kafka = of.kafka
    found: set[tuple[int, int]] = set()
    for partition in range(topic_partitions(admin, kafka.dead_letters_topic, "kafka.dead_letters_topic")):
        with closing(records_of(admin, kafka, kafka.dead_letters_topic, partition)) as messages:
            for message in messages:
                try:
                    letter = DeadLetter.from_headers(message_headers(message))
                except ValueError:
                    continue
                if letter.model_fingerprint == fingerprint and letter.source.topic == kafka.documents_topic:
                    found.add((letter.source.partition, letter.source.offset))
    return found
