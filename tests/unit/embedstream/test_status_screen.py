from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from embedstream.group_members import Member
from embedstream.group_progress import Snapshot
from embedstream.progress import Estimate
from embedstream.scrape import Scraped
from embedstream.status import Cost, Status
from embedstream.status_screen import BARS, duration, screen, sparkline

NOTHING = Estimate(0.0, 0.0, 1000.0)


def a_status(estimate: Estimate, name: str = "documents", cost: Cost | None = None) -> Status:
    members = (
        Member("a", "embedstream-pod-0", "/10.0.0.1", (0, 1)),
        Member("b", "embedstream-pod-1", "/10.0.0.2", ()),
    )
    model = (
        "embedstream_model_info",
        {"model": "a/model", "dim": "384", "precision": "fp16", "device": "cuda:0"},
        1.0,
    )
    return Status(
        group="g",
        topics={"documents": (name, 1_234_567), "embeddings": ("e", 5), "dead_letters": ("d", None)},
        snapshot=Snapshot(1.0, {0: 100, 1: 100}, {0: 40, 1: 0}, members, estimate),
        estimate=estimate,
        daemons=(Scraped("http://a:1/metrics", (model,)), Scraped("http://b:1/metrics", error="refused")),
        dead_letters={"empty": 3},
        cost=cost or Cost(),
        rates={"passages": 1234.5, "tokens": None},
        history=(0.0, 5.0, 10.0),
    )


def printed(status: Status, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width, highlight=False, no_color=True).print(screen(status))
    return output.getvalue()


@pytest.mark.parametrize("name", ["documents", "t" * 200])
def test_at_80_columns_without_colour_all_of_it_is_there(name: str) -> None:
    told = Estimate(0.25, 250.0, 1000.0, 10.0, 7500.0, 7000.0, 8000.0)
    text = printed(a_status(told, name, Cost(1.5, 0.5, 3.0, 0.01, 40.0)))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    joined = "".join(text.split())
    for part in (
        "25.0%",
        "2h5min(1h56minto2h13min)",
        "1,234passages/s",
        "1,234,567offsets",
        "3empty",
        "pod-0at10.0.0.1:partitions0,1",
        "pod-1at10.0.0.2:nopartition",
        "http://b:1/metrics:refused",
        "$1.5000sofar",
        "$3.0000attheend",
        "budget$40.00",
        "a/model",
        "d:doesnotexist",
        BARS[-1],
    ):
        assert part in joined, part
    assert name in joined


def test_what_is_not_known_is_said_and_never_a_number() -> None:
    text = printed(a_status(NOTHING))
    assert "nothing has moved" in text
    assert "no daemon has a price" in text
    stuck = Estimate(0.5, 500.0, 1000.0, 0.0, math.inf, math.inf, math.inf)
    assert "nothing moves" in printed(a_status(stuck))
    assert "all that was there" in printed(a_status(Estimate(1.0, 5.0, 5.0, None, 0.0, 0.0, 0.0)))


def test_members_that_the_broker_does_not_tell_are_not_none() -> None:
    known = a_status(NOTHING)
    text = printed(replace(known, snapshot=replace(known.snapshot, members=None)))
    assert "the broker does not tell" in text
    assert "in the group" not in text


def test_json_has_no_number_that_json_does_not_have() -> None:
    stuck = Estimate(0.5, 500.0, 1000.0, 0.0, math.inf, math.inf, math.inf)
    text = json.dumps(a_status(stuck, cost=Cost(1.0, 2.0, math.inf)).to_json(), allow_nan=False)
    told = json.loads(text)
    assert told["progress"]["seconds_left"] is None
    assert told["progress"]["stalled"] is True
    assert told["cost"]["projected"] is None
    assert told["lag"] == {"total": 40, "partitions": {"0": 40, "1": 0}}


@given(st.lists(st.floats(0, 1e12), max_size=60))
def test_a_sparkline_has_a_bar_for_each_value_and_the_largest_is_full(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == len(values)
    assert set(line) <= set(BARS)
    if max(values, default=0) > 0:
        assert line[values.index(max(values))] == BARS[-1]


def test_durations_have_two_units() -> None:
    assert [duration(each) for each in (0, 59, 61, 3600, 7384, 90_000, math.inf)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 3 min",
        "1 d 1 h",
        "no end",
    ]
