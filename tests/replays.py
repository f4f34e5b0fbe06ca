"""What tests of a replay ask: its topics, its offsets, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from embedstream.cutover import Switched, cut_over
from embedstream.offsets import committed_offsets
from embedstream.replay_names import dead_letters_of, group_of
from embedstream.settings import Settings
from tests.cli import run_cli
from tests.consuming import documents, send
from tests.daemons import Daemon, Daemons
from tests.kafka import Topics, read_all
from tests.oracle import Outcome, check_exactly_once, decode

__all__ = [
    "SECOND",
    "alias_of",
    "embeddings_of",
    "live",
    "offsets_of",
    "outcome_of_replay",
    "output_of",
    "refusal",
    "replay_verified",
    "replayed",
    "settings_of",
    "sources_of",
    "switch",
]

SECOND: dict[str, Any] = {"fingerprint": "second", "dim": 12}
"""The HashEncoder of the replay: another model, of another dimension."""


def output_of(topics: Topics) -> str:
    return f"{topics.embeddings}.second"


def replayed(topics: Topics) -> Topics:
    """The topics of the replay."""
    output = output_of(topics)
    return replace(topics, embeddings=output, dead_letters=dead_letters_of(output))


def settings_of(topics: Topics) -> Settings:
    """Those of the live daemons."""
    return Settings.model_validate(
        {"kafka": topics.kafka.model_dump(), "consumer": {"group": topics.documents}}
    )


def alias_of(topics: Topics) -> str:
    """An alias of this test alone: all tests of a session share a broker."""
    return topics.documents


def offsets_of(topics: Topics, partitions: int = 3) -> dict[int, int]:
    """The offsets of the replay's group."""
    found = committed_offsets(topics.kafka, group_of(output_of(topics)), topics.documents, range(partitions))
    return {partition: each.offset for partition, each in found.items()}


def replay_verified(topics: Topics) -> bool:
    """Whether `verify` finds nothing wrong with the replay."""
    own = replayed(topics)
    done = run_cli("verify", *own.flags, "--group", group_of(own.embeddings), "--json")
    print(done.stdout, done.stderr)
    return done.returncode == 0


def outcome_of_replay(topics: Topics, partitions: int = 3) -> Outcome:
    """What came of the records before the replay's offsets, worked out without the product."""
    own = replayed(topics)
    return check_exactly_once(
        read_all(own.bootstrap, own.documents),
        read_all(own.bootstrap, own.embeddings),
        read_all(own.bootstrap, own.dead_letters),
        offsets_of(topics, partitions),
    )


def embeddings_of(topics: Topics) -> list[dict[str, Any]]:
    """All embeddings of a topic."""
    values = [each.value() for each in read_all(topics.bootstrap, topics.embeddings)]
    return [decode("embedding", value) for value in values if value is not None]


def live(topics: Topics, daemons: Daemons, count: int = 30) -> None:
    """Documents, and their embeddings by the live daemons."""
    send(topics, documents(count))
    assert daemons.start(topics, "--until-drained").wait() == 0


def sources_of(topics: Topics) -> set[tuple[int, int]]:
    """Partition and offset of every record that has embeddings."""
    return {(each["source"]["partition"], each["source"]["offset"]) for each in embeddings_of(topics)}


def switch(topics: Topics, **options: int) -> Switched:
    """Cut the alias of the test over to the replay's topic, without waiting."""
    return cut_over(settings_of(topics), alias_of(topics), output_of(topics), wait_seconds=0, **options)


def refusal(daemon: Daemon, code: int) -> str:
    """The one line with which a daemon ended with a code."""
    assert daemon.wait() == code, daemon.log
    assert "Traceback" not in daemon.log
    return daemon.last_line
