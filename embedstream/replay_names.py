"""What a replay's topics and group are called: all follow from the topic that it writes to."""

from __future__ import annotations

import re
from pathlib import PurePath

from embedstream.errors import UsageError
from embedstream.settings import KafkaSettings, Settings

__all__ = ["dead_letters_of", "default_output", "group_of", "with_output"]

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


def default_output(model: str) -> str:
    """The topic for a model's embeddings: `embeddings.` and the last part of its name or path.

    Raises:
        UsageError: Nothing is left of the name that a topic may be called.
    """
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(model).name).strip(".-")
    if not short:
        raise UsageError(f"no topic can be named after the model {model!r}", "name one with --output")
    return f"embeddings.{short}"


def group_of(output: str) -> str:
    """The consumer group of the replay that writes to a topic."""
    return f"embedstream-replay-{output}"


def dead_letters_of(output: str) -> str:
    """The topic of what a replay could not embed: beside the live one, whose letters are another model's."""
    return f"{output}.dead-letters"


def with_output(settings: Settings, output: str) -> Settings:
    """The settings of a daemon that replays into a topic.

    Raises:
        UsageError: The topic is one that is used otherwise, or none that Kafka allows.
    """
    kafka = settings.kafka
    used = {
        kafka.documents_topic: "of the documents",
        kafka.embeddings_topic: "that the live daemons write to (kafka.embeddings_topic)",
        kafka.dead_letters_topic: "of the dead letters",
    }
    for name in (output, dead_letters_of(output)):
        if name in used:
            raise UsageError(f"--output {output}: {name} is the topic {used[name]}", "name another --output")
    if not _TOPIC_NAME.fullmatch(output):
        raise UsageError(
            f"--output {output!r} can't be a topic", "use up to 200 letters, digits, '.', '_' and '-'"
        )
    group = group_of(output)
    if group == settings.consumer.group:
        raise UsageError(
            f"--output {output}: its group {group!r} is that of the live daemons (consumer.group)",
            "name another --output",
        )
    topics = {"embeddings_topic": output, "dead_letters_topic": dead_letters_of(output)}
    return settings.model_copy(
        update={
            "kafka": KafkaSettings(**(kafka.model_dump() | topics)),
            "consumer": settings.consumer.model_copy(update={"group": group}),
        }
    )
