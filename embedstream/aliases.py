"""Aliases: names that readers use, each for an embeddings topic that may change.

    alias = resolve_alias(settings.kafka, "live")
    print(alias.topic, alias.model_fingerprint)

They are records of the compacted topic `embedstream.aliases`: the key is the alias's name in UTF-8, the value
a JSON object with the fields of `Alias`, and the last record of a name counts. A null value removes a name. A
reader passes over fields that it does not know; one that lacks a field here can't be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass

from confluent_kafka import KafkaError, KafkaException
from pydantic import TypeAdapter, ValidationError

from embedstream.errors import ConfigError
from embedstream.kafka import explain, make_admin, make_producer, topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import read_partition
from embedstream.topics import make_compacted_topic

__all__ = ["ALIASES_TOPIC", "Alias", "read_aliases", "resolve_alias", "write_alias"]

ALIASES_TOPIC = "embedstream.aliases"

_WRITE_SECONDS = 30.0


@dataclass(frozen=True)
class Alias:
    """What a name stands for.

    Attributes:
        topic: The embeddings topic.
        model: Name or path of the model that its vectors are of.
        model_fingerprint: What identifies that model and its splitter.
        dim: Dimensions of its vectors.
        documents_topic: The topic that was embedded.
        group: The consumer group that wrote the vectors.
        offsets: For each partition of the documents topic, the group's committed offset when the alias was
            switched: everything before has its outcome in `topic`.
        switched_at: When that was, milliseconds since the epoch.
        dead_letters_topic: What could not be embedded; None where the settings name it.
        previous: What the name stood for before, without what was before that.
    """

    topic: str
    model: str
    model_fingerprint: str
    dim: int
    documents_topic: str
    group: str
    offsets: Mapping[int, int]
    switched_at: int
    dead_letters_topic: str | None = None
    previous: Alias | None = None

    def to_value(self) -> bytes:
        """Return the alias as a record's value."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_value(cls, value: bytes) -> Alias:
        """Return the alias that a record's value says.

        Raises:
            ValueError: It says none.
        """
        try:
            return _ALIAS.validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


_ALIAS = TypeAdapter(Alias)


def resolve_alias(kafka: KafkaSettings, name: str) -> Alias:
    """Return what a name stands for now.

    Raises:
        ConfigError: There is no such alias, it can't be read, or its topic does not exist.
        ServiceUnavailableError: No broker answers.
        TryAgainError: Someone who switches an alias has not finished for a long time.
    """
    values = read_aliases(kafka)
    if name not in values:
        known = ", ".join(sorted(values)) or "none"
        raise ConfigError(
            f"--alias {name} does not exist (there are: {known})",
            "`embedstream cutover` makes aliases; a user needs the ACLs of its role (deploy/kafka/acls.sh)",
        )
    try:
        alias = Alias.from_value(values[name])
    except ValueError as error:
        raise ConfigError(
            f"--alias {name} can't be read ({error})", "make it again with `embedstream cutover`"
        ) from None
    topic_partitions(make_admin(kafka), alias.topic, f"the topic that --alias {name} stands for,")
    return alias


def read_aliases(kafka: KafkaSettings) -> dict[str, bytes]:
    """Return the last value of each name; nothing where the aliases topic does not exist yet."""
    admin = make_admin(kafka)
    try:
        partitions = range(topic_partitions(admin, ALIASES_TOPIC))
    except ConfigError:
        return {}
    starts, ends = (find(admin, ALIASES_TOPIC, partitions) for find in (start_offsets, end_offsets))
    values: dict[str, bytes] = {}
    for each in partitions:
        messages = read_partition(kafka, ALIASES_TOPIC, each, start=starts[each], end=ends[each])
        with closing(messages):
            for message in messages:
                name = (message.key() or b"").decode(errors="replace")
                value = message.value()
                if value is None:
                    values.pop(name, None)
                else:
                    values[name] = value
    return values


def write_alias(kafka: KafkaSettings, name: str, alias: Alias) -> None:
    """Let a name stand for something else from now on; makes the aliases topic if it is missing.

    Raises:
        ConfigError: The broker refuses the topic or the record.
        ServiceUnavailableError: No broker answers.
    """
    make_compacted_topic(make_admin(kafka), ALIASES_TOPIC)
    producer = make_producer(kafka)
    refused: list[KafkaError] = []
    producer.produce(
        ALIASES_TOPIC,
        alias.to_value(),
        name.encode(),
        partition=0,
        on_delivery=lambda error, _: refused.append(error) if error is not None else None,
    )
    if producer.flush(_WRITE_SECONDS) or refused:
        raise explain(KafkaException(refused[0] if refused else KafkaError(KafkaError._TIMED_OUT)))
