from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstream.topic_sample import Stretch, bytes_before, cut

extents = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5000)), min_size=1, max_size=20)


@given(extents, st.integers(1, 100))
def test_stretches_cover_every_partition_once(found: list[tuple[int, int]], stretches: int) -> None:
    begin = {number: start for number, (start, _) in enumerate(found)}
    ends = {number: start + size for number, (start, size) in enumerate(found)}
    pieces = cut(begin, ends, stretches)
    for partition, start in begin.items():
        own = [each for each in pieces if each.partition == partition]
        offsets = [offset for each in own for offset in range(each.start, each.end)]
        assert offsets == list(range(start, ends[partition]))
        assert all(each.size > 0 for each in own)
    assert len(pieces) <= stretches + len(begin)


def test_a_group_beyond_the_end_or_before_the_beginning_cuts_nothing() -> None:
    assert cut({0: 5, 1: 0}, {0: 3, 1: 0}, 64) == []


def test_bytes_are_weighed_where_they_lie() -> None:
    # The second half of the offsets holds nine tenths of the bytes.
    stretches = [Stretch(0, 0, 100, 8, 80), Stretch(0, 100, 200, 8, 720)]
    assert bytes_before(stretches, {0: 200}) == pytest.approx(10_000)
    assert bytes_before(stretches, {0: 100}) == pytest.approx(1_000)
    assert bytes_before(stretches, {0: 150}) == pytest.approx(5_500)
    assert bytes_before(stretches, {}) == 0
    assert bytes_before(stretches, {0: 10**9}) == pytest.approx(10_000)


def test_a_stretch_of_which_nothing_could_be_read_counts_as_the_others() -> None:
    stretches = [Stretch(0, 0, 100, 8, 800), Stretch(0, 100, 200)]
    assert bytes_before(stretches, {0: 200}) == pytest.approx(20_000)
    assert bytes_before([Stretch(0, 0, 100)], {0: 50}) == pytest.approx(50)
