"""One record in a hundred is poison: all of that, and nothing else, becomes dead letters."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from tests.brokers import BrokerHandle
from tests.cli import run_cli
from tests.consuming import outcome, send
from tests.kafka import make_topics
from tests.unit.consumer.items import a_value

Start = Callable[..., subprocess.Popen[bytes]]

RECORDS = 20_000
# What the poison is, and the reason that its dead letter must give. The words are one token each.
POISON = {
    "dynamite": ("raise", "encode_failed"),
    "arsenic": ("nan", "not_finite"),
    "mercury": ("zero", "zero_vector"),
    "no avro": (None, "not_avro"),
    "cut off": (None, "corrupt"),
    "blank": (None, "empty"),
}


def record(kind: str | None, number: int, rng: random.Random) -> bytes:
    """A document of one to five passages, all different; or poison of this kind."""
    words = [f"w{rng.randrange(1000)}" for _ in range(rng.randint(3, 80))]
    if kind in ("dynamite", "arsenic", "mercury"):
        words[rng.randrange(len(words))] = kind
    if kind == "no avro":
        return f"record {number} is no Avro".encode()
    value = a_value(" \n " if kind == "blank" else f"{number} {' '.join(words)}.", number)
    return value[: len(value) // 2] if kind == "cut off" else value


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_of_a_topic_with_one_percent_of_poison_exactly_that_becomes_dead_letters(
    kafka_broker: BrokerHandle, hash_daemon_on: Start, delivery: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    poisoned = sorted(rng.sample(range(RECORDS), RECORDS // 100))
    kinds = {number: list(POISON)[index % len(POISON)] for index, number in enumerate(poisoned)}
    topics = make_topics(kafka_broker.bootstrap)
    send(topics, [record(kinds.get(number), number, rng) for number in range(RECORDS)])
    words = {word: what for word, (what, _) in POISON.items() if what is not None}
    daemon = hash_daemon_on(topics, "--until-drained", "--delivery", delivery, bad_words=words)
    assert daemon.wait(240) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == RECORDS
    assert found.reasons == {(n % 3, n // 3): POISON[kind][1] for n, kind in kinds.items()}
    assert len(found.reasons) == found.dead_letters == RECORDS // 100
    print(found.embeddings, "passages,", dict(Counter(found.reasons.values())))
    done = run_cli("verify", *topics.flags, "--group", topics.documents)
    assert done.returncode == 0, done.stdout + done.stderr
