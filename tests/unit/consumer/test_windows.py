from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.records import Item, Window
from consumer.windows import WindowBuilder
from tests.unit.consumer.items import a_document, a_refusal, an_end


def a_builder(**changes: float) -> WindowBuilder:
    limits: dict[str, float] = {"seconds": 2.0, "size": 1e9, "linger": 0.2, "first_tokens": 100} | changes
    return WindowBuilder(
        seconds=limits["seconds"],
        size=int(limits["size"]),
        linger=limits["linger"],
        first_tokens=int(limits["first_tokens"]),
    )


def test_a_window_closes_when_it_holds_enough_tokens() -> None:
    builder = a_builder()
    assert builder.add(a_document(lengths=(60,)), 0.0) is None
    window = builder.add(a_document(offset=1, lengths=(30, 10)), 0.0)
    assert window is not None
    assert window.tokens == 100
    assert len(builder) == 0


def test_the_measured_rate_decides_how_many_tokens_are_enough() -> None:
    builder = a_builder()
    builder.measured(20.0)
    assert builder.add(a_document(lengths=(40,)), 0.0) is not None


def test_a_window_closes_when_it_holds_enough_bytes() -> None:
    builder = a_builder(size=1000)
    assert builder.add(a_refusal(value=b"x" * 100), 0.0) is None
    assert builder.add(a_refusal(offset=1, value=b"x" * 800), 0.0) is not None


def test_a_small_window_closes_after_the_linger_time_and_not_before() -> None:
    builder = a_builder()
    builder.add(a_document(), 10.0)
    builder.add(a_document(offset=1), 10.15)
    assert builder.idle(10.19) is None
    assert builder.seconds_left(10.1) is not None
    window = builder.idle(10.21)
    assert window is not None
    assert len(window.items) == 2


def test_the_linger_time_starts_anew_with_each_window() -> None:
    builder = a_builder()
    builder.add(a_document(lengths=(100,)), 0.0)
    assert builder.seconds_left(50.0) is None
    builder.add(a_document(offset=1), 50.0)
    assert builder.idle(50.1) is None


def test_the_seconds_left_are_those_of_the_oldest_item_and_never_less_than_none() -> None:
    builder = a_builder(linger=0.2)
    builder.add(a_document(), 10.0)
    builder.add(a_document(offset=1), 10.1)
    assert builder.seconds_left(10.05) == pytest.approx(0.15)
    assert builder.seconds_left(99.0) == 0.0


def test_each_window_begins_with_nothing_counted() -> None:
    builder = a_builder(first_tokens=100, size=1000)
    for offset in (0, 2):
        assert builder.add(a_document(offset=offset, lengths=(99,)), 0.0) is None
        assert builder.add(a_document(offset=offset + 1, lengths=(1,)), 0.0) is not None
    size = a_refusal(value=b"x" * 900).input.size
    builder = a_builder(size=2 * size)
    for offset in (0, 3):
        assert builder.add(a_refusal(offset=offset, value=b"x" * 900), 0.0) is None
        # One byte short of the limit, with what was counted for windows before left out.
        assert builder.add(a_refusal(offset=offset + 1, value=b"x" * 899), 0.0) is None
        assert builder.add(a_refusal(offset=offset + 2), 0.0) is not None


def test_a_rate_near_zero_closes_a_window_with_each_token() -> None:
    builder = a_builder()
    builder.measured(0.0)
    assert builder.add(a_document(lengths=(1,)), 0.0) is not None


def test_a_window_closes_at_its_limits_exactly() -> None:
    size = a_refusal(value=b"x").input.size
    assert a_builder(size=size).add(a_refusal(value=b"x"), 0.0) is not None
    builder = a_builder(linger=0.25)
    builder.add(a_document(), 10.0)
    assert builder.idle(10.25) is not None


def test_an_empty_window_never_closes() -> None:
    assert a_builder().idle(1e9) is None


ITEMS = st.lists(
    st.one_of(
        st.lists(st.integers(1, 60), min_size=1, max_size=4).map(lambda n: ("document", tuple(n))),
        st.just(("refusal", ())),
        st.just(("end", ())),
    ),
    max_size=60,
)


@given(ITEMS, st.integers(1, 200), st.lists(st.floats(0, 1), max_size=60))
def test_every_item_is_in_one_window_in_the_order_it_came(
    kinds: list[tuple[str, tuple[int, ...]]], first_tokens: int, gaps: list[float]
) -> None:
    builder = a_builder(first_tokens=first_tokens)
    items: list[Item] = []
    windows: list[Window] = []
    now = 0.0
    for offset, (kind, lengths) in enumerate(kinds):
        item: Item
        if kind == "document":
            item = a_document(offset=offset, lengths=lengths)
        else:
            item = a_refusal(offset=offset) if kind == "refusal" else an_end(offset=offset)
        items.append(item)
        now += gaps[offset] if offset < len(gaps) else 0.0
        windows += [each for each in (builder.idle(now), builder.add(item, now)) if each]
    windows += [each for each in (builder.idle(now + 1),) if each]
    assert [item for window in windows for item in window.items] == items
    assert [window.number for window in windows] == list(range(1, len(windows) + 1))
    assert all(window.items for window in windows)
