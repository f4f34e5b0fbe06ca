"""Where a partition is read on; what a real broker says is in integration/test_records_that_expired.py."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Consumer, TopicPartition

from consumer import position
from consumer.position import place
from embedstream.errors import ConfigError
from embedstream.metrics import Metrics


class Log:
    """As much of a consumer as `place` asks for, whose broker tells these ends in turn, the last for ever."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)

    def get_watermark_offsets(self, _: TopicPartition, **__: Any) -> tuple[int, int]:
        return 2, self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "LOOK_SECONDS", 0.0)


def place_at(log: Log, offset: int) -> TopicPartition:
    consumer = cast(Consumer, log)
    return place(consumer, "documents", 3, offset, group="group", skip_expired=False, metrics=Metrics())


def test_an_end_from_before_that_a_broker_remembers_is_looked_at_again() -> None:
    found = place_at(Log(5, 7, 10), 10)
    assert (found.partition, found.offset) == (3, 10)


def test_an_offset_that_stays_beyond_the_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ends at offset 5, and consumer\.group 'group' goes on at 10"):
        place_at(Log(5), 10)
