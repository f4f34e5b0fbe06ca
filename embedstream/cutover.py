"""Switches an alias from one embeddings topic to another, once that has all that the first one has.

    switched = cut_over(settings, "live", "embeddings.bge-large-en-v1.5")
    switched = roll_back(settings, "live")

What is live is what the alias stands for; before there is one, the topics and the group of the settings. The
checks prove for every record before the live group's offsets that the other topic has its outcome: its group
is as far, partition by partition, `verify` finds nothing missing, and what is a dead letter there only is
counted, as is what the documents topic had dropped before the replay began. Two who switch the same alias at
once: the last one's word holds, and each has proved its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from confluent_kafka.admin import AdminClient

from embedstream.aliases import Alias, read_aliases, write_alias
from embedstream.cutover_checks import (
    Position,
    expired_records,
    lost_documents,
    reach,
    refuse_late_start,
    refuse_unverified,
)
from embedstream.errors import ConfigError, FindingError, UsageError
from embedstream.kafka import make_admin, topic_partitions
from embedstream.logs import get_logger
from embedstream.replay_names import dead_letters_of, group_of
from embedstream.settings import KafkaSettings, Settings
from embedstream.snapshot import take_snapshot

__all__ = ["Switched", "cut_over", "roll_back"]

# A replay that keeps up is behind by what it has in hand.
WAIT_SECONDS = 5.0

_log = get_logger("cutover")


@dataclass(frozen=True)
class Switched:
    """What an alias stands for now.

    Attributes:
        name: Of the alias.
        alias: What it stands for.
        changed: Whether it stood for something else before.
        lost: Records that have embeddings in the topic before, and here are dead letters or unknown.
    """

    name: str
    alias: Alias
    changed: bool = True
    lost: int = 0

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        return {"name": self.name, "changed": self.changed, "lost": self.lost} | asdict(self.alias)

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        alias, verb = self.alias, "now stands" if self.changed else "stands already"
        yield (
            f"{self.name} {verb} for {alias.topic}: {alias.model}, {alias.dim} dimensions,"
            f" fingerprint {alias.model_fingerprint}"
        )
        if self.lost:
            yield f"{self.lost:,} records that had embeddings have none there"
        if self.changed and alias.previous is not None:
            yield (
                f"{alias.previous.topic} is as it was: as long as the daemons of {alias.previous.group} run,"
                " `embedstream cutover --rollback` goes back"
            )


def cut_over(
    settings: Settings, name: str, to: str, *, accept_lost: int = 0, wait_seconds: float = WAIT_SECONDS
) -> Switched:
    """Let the alias stand for another embeddings topic, if nothing is missing there.

    Args:
        settings: `kafka` and `consumer.group` say what is live where there is no alias yet.
        name: Of the alias.
        to: The embeddings topic.
        accept_lost: So many records may have embeddings in the live topic and none there.
        wait_seconds: How long the other group may take to reach where the live one is now.

    Raises:
        FindingError: The other topic lacks something; the message says how much.
        ConfigError: A topic does not exist; a group has committed nothing, or did not begin at the beginning.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    admin = make_admin(settings.kafka)
    current = _current(settings, name)
    live = _live(settings, current)
    topic_partitions(admin, to, "--to", "`embedstream replay` makes one")
    if current is not None and current.topic == to:
        return Switched(name, current, changed=False)
    target = _target(settings, current, to)
    inputs = topic_partitions(admin, target.kafka.documents_topic, "kafka.documents_topic")
    # What is live first: the other has to have passed that when it is looked at.
    wanted = _live_offsets(live, current, inputs)
    if not wanted:
        raise ConfigError(
            f"the live group {live.group!r} has committed no offsets of {live.kafka.documents_topic!r}",
            "name the one that the live daemons use with --group",
        )
    reached = reach(admin, target, wanted, wait_seconds)
    fingerprint, lost = target.fingerprint(range(inputs)), 0
    if target != live:
        refuse_late_start(admin, target, reached)
        _log.info("verifying", topic=to, group=target.group)
        refuse_unverified(settings, target)
        # Of a group that was empty for long the broker forgets that too.
        own = current.model_fingerprint if current else live.fingerprint(range(inputs))
        lost = lost_documents(admin, live, own, target, fingerprint, wanted)
        expired = expired_records(admin, live, target)
        _refuse_lost(live, target, lost, expired, accept_lost)
        lost += expired
    previous = current if current is not None or target == live else _alias(admin, live, wanted)
    alias = _alias(admin, target, reached, fingerprint, previous)
    write_alias(settings.kafka, name, alias)
    return Switched(name, alias, lost=lost)


def roll_back(settings: Settings, name: str, *, wait_seconds: float = WAIT_SECONDS) -> Switched:
    """Let the alias stand for what it stood for before.

    Raises:
        FindingError: The group of that lags behind the live one; the message says by how much.
        ConfigError: There is no such alias, or nothing before it; or the topic before is gone.
        ServiceUnavailableError: No broker answers.
    """
    admin = make_admin(settings.kafka)
    current = _current(settings, name)
    if current is None or current.previous is None:
        what = "does not exist" if current is None else f"has stood for {current.topic} only"
        raise ConfigError(f"--alias {name} {what}", "there is nothing to go back to")
    before, live = current.previous, _position(settings, current)
    gone = "there is nothing to go back to"
    topic_partitions(admin, before.topic, f"the topic that --alias {name} stood for before,", gone)
    target = _position(settings, before)
    inputs = topic_partitions(admin, live.kafka.documents_topic, "kafka.documents_topic")
    reached = reach(admin, target, _live_offsets(live, current, inputs), wait_seconds)
    found = target.fingerprint(range(inputs))
    if found != before.model_fingerprint:
        raise ConfigError(
            f"the group {before.group!r} is now of the model fingerprint {found}, and was of"
            f" {before.model_fingerprint}",
            f"cut over to {before.topic} anew with --to",
        )
    alias = replace(
        before, offsets=dict(reached), switched_at=_now(), previous=replace(current, previous=None)
    )
    write_alias(settings.kafka, name, alias)
    return Switched(name, alias)


def _refuse_lost(live: Position, target: Position, lost: int, expired: int, accepted: int) -> None:
    if lost + expired <= accepted:
        return
    topic, to = live.kafka.embeddings_topic, target.kafka.embeddings_topic
    accept = f"--accept-lost {lost + expired} does without them"
    if expired:
        raise FindingError(
            f"{expired:,} records with output in {topic} are missing in {to}: {target.kafka.documents_topic}"
            f" has dropped them{f'; {lost:,} more are dead letters there' if lost else ''}",
            f"produce them again, into a topic that keeps everything (`embedstream topics check`); {accept}",
        )
    raise FindingError(
        f"{lost:,} records that have embeddings in {topic} are dead letters of {to}",
        f"`embedstream dlq list --dead-letters-topic {target.kafka.dead_letters_topic}` says why, `dlq retry`"
        f" sends them once more; {accept}",
    )


def _current(settings: Settings, name: str) -> Alias | None:
    if not name or len(name.encode()) > 1000:
        raise UsageError("--alias is empty or too long", "give a name")
    value = read_aliases(settings.kafka).get(name)
    if value is None:
        return None
    try:
        return Alias.from_value(value)
    except ValueError as error:
        raise ConfigError(f"--alias {name} can't be read ({error})", "name another --alias") from None


def _live(settings: Settings, current: Alias | None) -> Position:
    return (
        Position(settings.kafka, settings.consumer.group) if current is None else _position(settings, current)
    )


def _live_offsets(live: Position, current: Alias | None, inputs: int) -> dict[int, int]:
    """How far readers can read now: brokers forget a group that was empty for long, the alias does not."""
    wanted = {} if current is None else {each: at for each, at in current.offsets.items() if each < inputs}
    for each, offset in live.offsets(range(inputs)).items():
        wanted[each] = max(offset, wanted.get(each, 0))
    return wanted


def _target(settings: Settings, current: Alias | None, to: str) -> Position:
    """The group and topics that belong to an embeddings topic."""
    previous = None if current is None else current.previous
    if previous is not None and previous.topic == to:
        return _position(settings, previous)
    documents = settings.kafka.documents_topic if current is None else current.documents_topic
    if to == settings.kafka.embeddings_topic:
        return Position(_with(settings.kafka, documents_topic=documents), settings.consumer.group)
    kafka = _with(
        settings.kafka,
        documents_topic=documents,
        embeddings_topic=to,
        dead_letters_topic=dead_letters_of(to),
    )
    return Position(kafka, group_of(to))


def _position(settings: Settings, alias: Alias) -> Position:
    kafka = _with(
        settings.kafka,
        documents_topic=alias.documents_topic,
        embeddings_topic=alias.topic,
        dead_letters_topic=alias.dead_letters_topic or settings.kafka.dead_letters_topic,
    )
    return Position(kafka, alias.group)


def _with(kafka: KafkaSettings, **topics: str) -> KafkaSettings:
    return kafka.model_copy(update=topics)


def _alias(
    admin: AdminClient,
    position: Position,
    reached: Mapping[int, int],
    fingerprint: str | None = None,
    previous: Alias | None = None,
) -> Alias:
    inputs = range(topic_partitions(admin, position.kafka.documents_topic, "kafka.documents_topic"))
    snapshot = take_snapshot(position.kafka, fingerprint or position.fingerprint(inputs))
    return Alias(
        topic=position.kafka.embeddings_topic,
        model=snapshot.model,
        model_fingerprint=snapshot.model_fingerprint,
        dim=snapshot.dim,
        documents_topic=position.kafka.documents_topic,
        group=position.group,
        offsets=dict(reached),
        switched_at=_now(),
        dead_letters_topic=position.kafka.dead_letters_topic,
        previous=None if previous is None else replace(previous, previous=None),
    )


def _now() -> int:
    return int(time.time() * 1000)
