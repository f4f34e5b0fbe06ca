"""What the commands that read embeddings share: which topic and which model are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstream.errors import UsageError

if TYPE_CHECKING:
    from embedstream.settings import Loaded

__all__ = ["AliasName", "Fingerprint", "resolved"]

AliasName = Annotated[
    str | None, typer.Option("--alias", help="Read what this alias stands for, instead of a topic.")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Of the model, where the topic holds several.")
]


def resolved(
    loaded: Loaded, alias: str | None, embeddings_topic: str | None, fingerprint: str | None
) -> tuple[Loaded, str | None]:
    """The settings and the fingerprint with what the alias stands for, where one is named."""
    if alias is None:
        return loaded, fingerprint
    if embeddings_topic or fingerprint:
        raise UsageError(
            "--alias stands for a topic and a model", "leave --embeddings-topic and --fingerprint away"
        )
    from embedstream.aliases import resolve_alias
    from embedstream.settings import Loaded

    found = resolve_alias(loaded.settings.kafka, alias)
    topics = {"embeddings_topic": found.topic, "documents_topic": found.documents_topic}
    if found.dead_letters_topic is not None:
        topics["dead_letters_topic"] = found.dead_letters_topic
    kafka = loaded.settings.kafka.model_copy(update=topics)
    settings = loaded.settings.model_copy(update={"kafka": kafka})
    return Loaded(settings, loaded.sources), found.model_fingerprint
