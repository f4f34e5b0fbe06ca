"""When partitions count as unowned, and which member does something about it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.unowned import Unowned

ALL = range(6)
PATIENCE = 5.0
OURS = {"a": {0, 1}, "b": {2, 3}, "c": set[int]()}


def test_the_member_with_the_fewest_partitions_joins_again_when_the_patience_is_over() -> None:
    for member, expected in (("c", [4, 5]), ("a", [])):
        unowned = Unowned(PATIENCE)
        assert unowned.seen(member, OURS, ALL, 10.0) == []
        assert unowned.seen(member, OURS, ALL, 14.9) == []
        assert unowned.seen(member, OURS, ALL, 15.0) == expected


def test_after_it_has_joined_again_it_waits_as_long_before_it_does_so_once_more() -> None:
    unowned = Unowned(PATIENCE)
    unowned.seen("c", OURS, ALL, 0.0)
    assert unowned.seen("c", OURS, ALL, 6.0) == [4, 5]
    assert unowned.seen("c", OURS, ALL, 7.0) == []
    assert unowned.seen("c", OURS, ALL, 12.0) == [4, 5]


def test_a_rebalance_or_an_owner_in_between_starts_the_clock_anew() -> None:
    for between in (None, {**OURS, "b": {2, 3, 4, 5}}, {"a": {0, 1}, "b": {2, 3}}):
        unowned = Unowned(PATIENCE)
        unowned.seen("c", OURS, ALL, 0.0)
        unowned.seen("c", between, ALL, 4.0)
        assert unowned.seen("c", OURS, ALL, 6.0) == []


def test_a_group_that_does_not_know_us_yet_is_left_alone() -> None:
    unowned = Unowned(PATIENCE)
    for member in ("d", None):
        assert unowned.seen(member, OURS, ALL, 0.0) == []
        assert unowned.seen(member, OURS, ALL, 100.0) == []


@given(
    st.lists(st.sampled_from([*"abcd", None]), min_size=6, max_size=6),
    st.sets(st.sampled_from("abcd"), min_size=1),
)
def test_exactly_one_member_joins_again_and_only_if_a_partition_has_no_owner(
    owners: list[str | None], members: set[str]
) -> None:
    shares = {name: {p for p, owner in enumerate(owners) if owner == name} for name in members}
    free = [p for p, owner in enumerate(owners) if owner not in members]
    found = []
    for name in members:
        unowned = Unowned(PATIENCE)
        unowned.seen(name, shares, ALL, 0.0)
        found.append(unowned.seen(name, shares, ALL, PATIENCE))
    assert [each for each in found if each] == ([free] if free else [])
