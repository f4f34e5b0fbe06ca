from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstream import verify_merge
from embedstream.verify_merge import MAX_LISTED, InputRecord, Kind, PartitionMerge, Tally

Value = TypeVar("Value")

Piece = tuple[int, int, int]
"""An embedding: offset, index, count. A deletion passed on has count 0."""

FIRST, COMMITTED, END = 10, 40, 50


@dataclass(frozen=True)
class Case:
    """An input partition, and what came of it in the two output topics, in the order of their logs."""

    records: tuple[InputRecord, ...]
    pieces: tuple[Piece, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class Judged:
    """Offsets by kind, each with the number of findings."""

    found: dict[Kind, Counter[int]]
    tally: Tally


def merged(case: Case) -> Judged:
    tally = Tally()
    merge = PartitionMerge(
        "in/0", case.records, case.dead, first=FIRST, committed=COMMITTED, end=lambda: END, tally=tally
    )
    for offset, index, count in case.pieces:
        if count == 0:
            merge.deletion(offset)
        else:
            merge.passage(offset, index=index, count=count)
    merge.finish()
    assert {kind: len(tally.listed[kind]) for kind in Kind} == {
        kind: min(tally.counts[kind], MAX_LISTED) for kind in Kind
    }
    found = {
        kind: Counter(int(each.position.rpartition("/")[2]) for each in tally.listed[kind]) for kind in Kind
    }
    return Judged(found, tally)


@dataclass
class Reference:
    """What is wrong, found by looking at everything again for every record: no cursor, no memory limit.

    `odd` are offsets of output that no record can have; `both`, of records with passages and dead letters.
    """

    missing: set[int]
    double: set[int]
    out_of_order: set[int]
    unexpected: set[int]
    odd: set[int]
    both: set[int]
    embeddings: int = 0
    dead_letters: int = 0
    deletions: int = 0


def reference(case: Case) -> Reference:
    judged = Reference(set(), set(), set(), set(), set(), set())
    offsets = {record.offset for record in case.records}
    for named in {piece[0] for piece in case.pieces} | set(case.dead):
        if named >= END:
            judged.unexpected.add(named)
        elif FIRST <= named < COMMITTED and named not in offsets:
            judged.odd.add(named)
    pieces = [piece for piece in case.pieces if FIRST <= piece[0] < COMMITTED]
    dead = [offset for offset in case.dead if FIRST <= offset < COMMITTED]
    for record in case.records:
        judge_record(record, pieces, dead, judged)
    return judged


def judge_record(
    record: InputRecord, pieces: Sequence[Piece], dead: Sequence[int], judged: Reference
) -> None:
    offset = record.offset
    own = [
        (at, index, count or 1)
        for at, (o, index, count) in enumerate(pieces)
        if o == offset and (count == 0) == record.is_deletion
    ]
    if any(o == offset and (count == 0) != record.is_deletion for o, _, count in pieces):
        judged.odd.add(offset)
    sound = [(at, index, count) for at, index, count in own if index < count]
    count = sound[0][2] if sound else 0
    if len(sound) < len(own) or any(each[2] != count for each in sound):
        judged.odd.add(offset)
    sound = [each for each in sound if each[2] == count]
    letters = dead.count(offset)
    distinct = {index for _, index, _ in sound}
    if len(distinct) < len(sound) or letters > 1:
        judged.double.add(offset)
    if letters and sound:
        judged.both.add(offset)
        judged.double.add(offset)
    if not letters and (count == 0 or len(distinct) < count):
        judged.missing.add(offset)
    for nth, (at, index, _) in enumerate(sound):
        is_first = index not in {i for _, i, _ in sound[:nth]}
        passed = any(o > offset for o, _, _ in pieces[:at]) or any(i > index for _, i, _ in sound[:nth])
        if is_first and passed:
            judged.out_of_order.add(offset)
    if letters and any(o > offset for o in dead[: dead.index(offset)]):
        judged.out_of_order.add(offset)
    judged.dead_letters += letters > 0
    judged.deletions += len(distinct) if record.is_deletion else 0
    judged.embeddings += 0 if record.is_deletion else len(distinct)


def check_against_reference(case: Case) -> Judged:
    judged, expected = merged(case), reference(case)
    found = {kind: set(judged.found[kind]) for kind in Kind}
    assert found[Kind.MISSING] == expected.missing
    # Output that no record can have is unexpected, or double where it comes after its record was complete and
    # passed by: that record is no longer remembered.
    odd = expected.odd
    assert (found[Kind.UNEXPECTED] | found[Kind.DOUBLE]) >= odd
    assert found[Kind.UNEXPECTED] - odd == expected.unexpected
    assert found[Kind.DOUBLE] - odd == expected.double - odd
    # Which of an embedding and a dead letter of one record came first can't be told from two topics.
    assert found[Kind.OUT_OF_ORDER] - expected.both == expected.out_of_order - expected.both
    tally = judged.tally
    assert tally.records == len(case.records)
    if not expected.both:
        assert tally.dead_letters == expected.dead_letters
        assert tally.embeddings == expected.embeddings
        assert tally.deletions == expected.deletions
    outside = [each[0] for each in case.pieces] + list(case.dead)
    assert tally.ahead == sum(COMMITTED <= offset < END for offset in outside)
    assert tally.expired == sum(offset < FIRST for offset in outside)
    return judged


@st.composite
def sound_cases(draw: st.DrawFn) -> Case:
    """An input with holes, and output as the consumer writes it."""
    offsets = sorted(draw(st.sets(st.integers(FIRST, COMMITTED - 1), max_size=12)))
    records, pieces, dead = [], [], []
    for offset in offsets:
        outcome = draw(st.sampled_from(["passages", "dead", "deletion", "dead deletion"]))
        records.append(InputRecord(offset, "deletion" in outcome))
        if outcome == "passages":
            count = draw(st.integers(1, 4))
            pieces += [(offset, index, count) for index in range(count)]
        elif outcome == "deletion":
            pieces.append((offset, 0, 0))
        else:
            dead.append(offset)
    return Case(tuple(records), tuple(pieces), tuple(dead))


def offsets_around(records: Sequence[InputRecord]) -> st.SearchStrategy[int]:
    """Offsets of records, of none, and at the borders of what is checked."""
    borders = [FIRST - 1, FIRST, COMMITTED - 1, COMMITTED, END - 1, END]
    named = [record.offset for record in records]
    return st.one_of(st.sampled_from([*borders, *named]), st.integers(FIRST, COMMITTED))


def pieces_around(records: Sequence[InputRecord]) -> st.SearchStrategy[Piece]:
    """Passages and deletions of those; a passage may have a number that its record can't have."""
    offsets = offsets_around(records)
    deletion = st.tuples(offsets, st.just(0), st.just(0))
    return st.one_of(st.tuples(offsets, st.integers(0, 4), st.integers(1, 4)), deletion)


def mutate(draw: st.DrawFn, log: list[Value], anything: st.SearchStrategy[Value]) -> None:
    """Drop, repeat, swap or add one entry of a log."""
    action = draw(st.sampled_from(["drop", "repeat", "swap", "add"]))
    if action == "add":
        log.insert(draw(st.integers(0, len(log))), draw(anything))
    elif log:
        one, other = (draw(st.integers(0, len(log) - 1)) for _ in range(2))
        if action == "drop":
            del log[one]
        elif action == "repeat":
            log.insert(other, log[one])
        else:
            log[one], log[other] = log[other], log[one]


@st.composite
def mutated_cases(draw: st.DrawFn) -> Case:
    case = draw(sound_cases())
    pieces, dead = list(case.pieces), list(case.dead)
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            mutate(draw, pieces, pieces_around(case.records))
        else:
            mutate(draw, dead, offsets_around(case.records))
    return Case(case.records, tuple(pieces), tuple(dead))


@given(sound_cases())
def test_output_as_the_consumer_writes_it_has_no_findings(case: Case) -> None:
    judged = check_against_reference(case)
    assert not any(judged.tally.counts.values())


@given(mutated_cases())
def test_whatever_is_dropped_repeated_swapped_or_added_is_found_as_the_reference_finds_it(case: Case) -> None:
    check_against_reference(case)


@given(sound_cases().filter(lambda case: bool(case.pieces)), st.data())
def test_a_dropped_passage_is_always_missing(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.pieces) - 1))
    judged = merged(Case(case.records, case.pieces[:at] + case.pieces[at + 1 :], case.dead))
    assert judged.found[Kind.MISSING] == Counter([case.pieces[at][0]])
    assert sum(judged.tally.counts.values()) == 1


@given(sound_cases().filter(lambda case: bool(case.pieces)), st.data())
def test_windows_that_come_again_are_double_and_nothing_else(case: Case, data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.integers(0, len(case.pieces))) for _ in range(2))
    again = case.pieces[:end] + case.pieces[start:]
    judged = merged(Case(case.records, again, case.dead))
    assert judged.tally.counts == {
        Kind.MISSING: 0,
        Kind.DOUBLE: end - start,
        Kind.OUT_OF_ORDER: 0,
        Kind.UNEXPECTED: 0,
    }


def test_every_finding_is_counted_and_the_first_are_listed_by_position() -> None:
    records = [InputRecord(offset, False) for offset in range(100)]
    tally = Tally()
    merge = PartitionMerge("in/3", records, [], first=0, committed=100, end=lambda: 100, tally=tally)
    merge.finish()
    assert tally.counts[Kind.MISSING] == 100
    assert [each.position for each in tally.listed[Kind.MISSING]] == [f"in/3/{n}" for n in range(MAX_LISTED)]
    assert tally.listed[Kind.MISSING][0].detail == "no passage of it and no dead letter"


def test_what_is_remembered_is_bounded_and_still_all_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_merge, "MAX_INCOMPLETE", 5)
    records = [InputRecord(offset, False) for offset in range(1000)]
    tally = Tally()
    merge = PartitionMerge("in/0", records, [], first=0, committed=1000, end=lambda: 1000, tally=tally)
    merge.passage(999, index=0, count=1)
    assert len(merge._incomplete) <= 5
    merge.passage(998, index=0, count=1)
    merge.passage(3, index=0, count=1)
    merge.finish()
    # 998 was among the last five and is only late; 3 was given up on, and is told as one too many.
    assert tally.counts == {Kind.MISSING: 998, Kind.DOUBLE: 1, Kind.OUT_OF_ORDER: 1, Kind.UNEXPECTED: 0}
    assert [each.position for each in tally.listed[Kind.MISSING]] == [f"in/0/{n}" for n in range(MAX_LISTED)]


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        ([(20, 0, 0)], {Kind.UNEXPECTED, Kind.MISSING}),
        ([(20, 0, 2), (20, 1, 3)], {Kind.UNEXPECTED, Kind.MISSING}),
        ([(20, 0, 2), (20, 1, 3), (20, 1, 2)], {Kind.UNEXPECTED}),
        ([(20, 2, 2)], {Kind.UNEXPECTED, Kind.MISSING}),
        ([(20, 1, 2), (20, 0, 2)], {Kind.OUT_OF_ORDER}),
        ([(21, 0, 1), (20, 0, 1)], {Kind.UNEXPECTED, Kind.OUT_OF_ORDER}),
        ([(20, 0, 1), (COMMITTED, 0, 1)], set()),
        ([(20, 0, 1), (END, 0, 1)], {Kind.UNEXPECTED}),
        ([(FIRST - 1, 0, 1), (20, 0, 1)], set()),
    ],
)
def test_output_that_a_document_cannot_have_is_told_by_its_kind(
    pieces: list[Piece], kinds: set[Kind]
) -> None:
    judged = merged(Case((InputRecord(20, False),), tuple(pieces), ()))
    assert {kind for kind, count in judged.tally.counts.items() if count} == kinds


def test_a_passage_of_a_deletion_is_unexpected() -> None:
    judged = merged(Case((InputRecord(20, True),), ((20, 0, 1), (20, 0, 0)), ()))
    assert judged.found[Kind.UNEXPECTED] == Counter([20])
    assert sum(judged.tally.counts.values()) == 1


def test_the_input_is_read_no_further_than_the_output_has_come() -> None:
    pulled = []

    def records() -> Iterator[InputRecord]:
        for offset in range(1000):
            pulled.append(offset)
            yield InputRecord(offset, False)

    merge = PartitionMerge("in/0", records(), [], first=0, committed=1000, end=lambda: 0, tally=Tally())
    merge.passage(7, index=0, count=1)
    assert len(pulled) == 8


def test_a_passage_number_beyond_reason_takes_no_memory() -> None:
    tally = Tally()
    merge = PartitionMerge(
        "in/0", [InputRecord(0, False)], [], first=0, committed=1, end=lambda: 1, tally=tally
    )
    merge.passage(0, index=2**31 - 2, count=2**31 - 1)
    merge.finish()
    assert tally.counts[Kind.UNEXPECTED] == tally.counts[Kind.MISSING] == 1


def test_random_shuffles_are_judged_as_the_reference_does() -> None:
    # Far from order: more than a handful of mutations reaches.
    for seed in range(200):
        rng = random.Random(seed)
        records = tuple(
            InputRecord(o, rng.random() < 0.2) for o in range(FIRST, COMMITTED) if rng.random() < 0.3
        )
        pieces = [
            (r.offset, 0, 0) if r.is_deletion else (r.offset, i, 2)
            for r in records
            for i in range(1 if r.is_deletion else 2)
        ]
        rng.shuffle(pieces)
        dead = rng.sample([r.offset for r in records], len(records) // 2)
        check_against_reference(Case(records, tuple(pieces), tuple(dead)))


def test_offsets_that_expired_without_output_are_counted_once_each() -> None:
    # Of the ten that expired, 0 and 2 have passages (2 twice over), 5 and 6 dead letters.
    pieces = ((0, 0, 1), (2, 0, 2), (2, 1, 2), (2, 0, 2), (20, 0, 1))
    judged = merged(Case((InputRecord(20, False),), pieces, (5, 6)))
    assert judged.tally.unread == FIRST - 4
    assert judged.tally.expired == 6
    assert not any(judged.tally.counts.values())


def test_a_finding_may_stand_for_several_records() -> None:
    tally = Tally()
    tally.add(Kind.MISSING, "in/0/3", "up to 7 records", 7)
    assert tally.counts[Kind.MISSING] == 7
    assert len(tally.listed[Kind.MISSING]) == 1
