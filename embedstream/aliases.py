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

from pydantic import TypeAdapter, ValidationError

from embedstream.errors import ConfigError
from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import read_partition

__all__ = ["ALIASES_TOPIC", "Alias", "read_aliases", "resolve_alias"]

ALIASES_TOPIC = "embedstream.aliases"


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
    """

    topic: str
    model: str
    model_fingerprint: str
    dim: int
    documents_topic: str
    group: str
    offsets: Mapping[int, int]
    switched_at: int

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
            f"--alias {name} does not exist (there are: {known})", "`embedstream cutover` makes aliases"
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
