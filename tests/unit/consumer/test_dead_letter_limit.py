from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.dead_letter_limit import DeadLetterLimit
from consumer.outbound import ItemRecords
from consumer.records import Failure
from embedstream.errors import TooManyDeadLettersError
from schemas.dead_letter import Reason
from tests.unit.consumer.items import a_deletion, a_document, a_refusal, an_end


def good(offset: int = 0) -> ItemRecords:
    return ItemRecords(a_document(offset=offset), ())


def bad(offset: int = 0, reason: Reason = Reason.NOT_AVRO) -> ItemRecords:
    return ItemRecords(a_refusal(offset=offset), (), Failure(reason, "no"))


def records(outcomes: list[bool]) -> list[ItemRecords]:
    return [bad(offset) if dead else good(offset) for offset, dead in enumerate(outcomes)]


def tripped_at(outcomes: list[bool], ratio: float, span: int) -> int | None:
    """The rule again, in the plainest way."""
    enough = max(1, span // 10) if ratio else 1
    for here, dead in enumerate(outcomes):
        recent = outcomes[max(0, here + 1 - span) : here + 1]
        if dead and len(recent) >= enough and sum(recent) / len(recent) > ratio:
            return here
    return None


@pytest.mark.slow
def test_one_in_a_hundred_never_stops_a_daemon() -> None:
    limit = DeadLetterLimit(0.5, 1000)
    for number in range(100_000):
        limit.judge([bad() if number % 100 == 99 else good()])
        assert not limit.is_undecided


def test_a_topic_of_nothing_but_poison_is_stopped_within_its_first_window() -> None:
    with pytest.raises(TooManyDeadLettersError, match=r"100 of the last 100 records \(100.0%\)"):
        DeadLetterLimit(0.5, 1000).judge([bad()] * 100)


def test_too_few_to_judge_by_are_undecided_and_never_stop_a_daemon() -> None:
    limit = DeadLetterLimit(0.5, 1000)
    limit.judge([bad()] * 99)
    assert limit.is_undecided
    with pytest.raises(TooManyDeadLettersError):
        limit.judge([bad()])


def test_good_records_decide() -> None:
    limit = DeadLetterLimit(0.5, 1000)
    limit.judge([bad(), bad(), good()])
    assert limit.is_undecided
    limit.judge([good()])
    assert not limit.is_undecided


def test_what_is_longer_ago_than_the_span_is_forgotten() -> None:
    limit = DeadLetterLimit(0.5, 100)
    limit.judge([good()] * 5000)
    limit.judge([bad()] * 50)
    with pytest.raises(TooManyDeadLettersError):
        limit.judge([bad()])


def test_a_limit_of_one_lets_all_through_and_of_nothing_not_one() -> None:
    DeadLetterLimit(1.0, 10).judge([bad()] * 1000)
    limit = DeadLetterLimit(0.0, 1000)
    limit.judge([good()] * 5)
    with pytest.raises(TooManyDeadLettersError):
        limit.judge([bad()])


def test_exactly_the_limit_is_not_past_it() -> None:
    limit = DeadLetterLimit(0.29, 100)
    limit.judge([good()] * 71 + [bad()] * 29)
    limit.judge([good()] * 71)


def test_a_deletion_is_no_dead_letter_and_an_end_is_no_record() -> None:
    limit = DeadLetterLimit(0.5, 10)
    limit.judge([ItemRecords(an_end(), ())] * 100)
    limit.judge([ItemRecords(a_deletion(), ()), bad()])
    assert not limit.is_undecided


def test_the_error_names_the_share_the_commonest_reason_the_record_and_the_mend() -> None:
    items = [bad(n, Reason.EMPTY) for n in range(3)] + [bad(n, Reason.ENCODE_FAILED) for n in range(3, 10)]
    with pytest.raises(TooManyDeadLettersError) as caught:
        DeadLetterLimit(0.25, 100).judge(items)
    line = str(caught.value)
    assert "\n" not in line
    assert "10 of the last 10 records (100.0%)" in line
    assert "consumer.max_dead_letter_ratio 0.25" in line
    assert "commonest reason is encode_failed (7)" in line
    assert "documents partition 0 offset 9" in line
    assert "--max-dead-letter-ratio" in line
    assert caught.value.exit_code == 4


@given(
    outcomes=st.lists(st.sampled_from([True, True, False]), max_size=120),
    ratio=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
    span=st.sampled_from([10, 30, 50]),
    cuts=st.sets(st.integers(0, 120), max_size=20),
)
def test_how_records_are_cut_into_windows_makes_no_difference(
    outcomes: list[bool], ratio: float, span: int, cuts: set[int]
) -> None:
    limit, items = DeadLetterLimit(ratio, span), records(outcomes)
    edges = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    expected = tripped_at(outcomes, ratio, span)
    for start, end in pairwise(edges):
        if expected is not None and start <= expected < end:
            with pytest.raises(TooManyDeadLettersError, match=f"offset {expected}:"):
                limit.judge(items[start:end])
            return
        limit.judge(items[start:end])
    assert expected is None
