from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstream.newest import Choice, NewestVersions, Passage


def passage(
    document: str = "a",
    version: int = 1,
    offset: int = 0,
    segment: tuple[int, int] = (0, 1),
    part: tuple[int, int] = (0, 1),
) -> Passage:
    return Passage(document, version, (0, offset), segment, part)


def chosen(newest: NewestVersions, offsets: range = range(50)) -> list[int]:
    """The offsets that are chosen, after choosing."""
    newest.choose()
    return [offset for offset in offsets if newest.is_chosen((0, offset))]


def kept(*passages: Passage) -> list[int]:
    with NewestVersions() as newest:
        for each in passages:
            newest.add_passage(each)
        return chosen(newest)


def test_only_the_newest_version_is_kept_even_if_an_older_one_comes_late() -> None:
    assert kept(passage(version=2, offset=5), passage(version=1, offset=9)) == [5]


def test_a_record_sent_again_under_its_version_replaces_the_first() -> None:
    assert kept(passage(offset=3), passage(offset=8)) == [8]


def test_a_passage_delivered_again_is_told_from_the_first() -> None:
    with NewestVersions() as newest:
        assert newest.add_passage(passage(part=(0, 2)))
        assert not newest.add_passage(passage(part=(0, 2)))
        assert newest.add_passage(passage(part=(1, 2)))
        newest.save()
        assert not newest.add_passage(passage(part=(1, 2)))
        newest.add_repeat((4, 11))
        newest.add_repeat((4, 7))
        newest.add_repeat((3, 8))
        assert list(newest.repeats(4, 0)) == [7, 11]
        assert list(newest.repeats(4, 8)) == [11]
        assert newest.choose().passages == 2


def test_an_incomplete_version_leaves_the_one_before_it_standing() -> None:
    old = passage(version=1, offset=0)
    first = passage(version=2, offset=1, segment=(0, 2))
    assert kept(old, first) == [0]
    assert kept(old, first, passage(version=2, offset=2, segment=(1, 2))) == [1, 2]
    assert kept(old, passage(version=2, offset=1, part=(0, 2))) == [0]


def test_a_passage_whose_number_is_beyond_the_count_does_not_complete_a_record() -> None:
    assert kept(passage(part=(0, 2)), passage(part=(2, 2))) == []


def test_a_version_with_a_dead_letter_for_a_segment_is_complete() -> None:
    for segment in (1, None):
        with NewestVersions() as newest:
            newest.add_passage(passage(version=1, offset=0))
            newest.add_passage(passage(version=2, offset=1, segment=(0, 2)))
            newest.add_dead_letter("a", 2, segment, (0, 2))
            assert chosen(newest) == [1]


def test_a_segment_that_was_dead_lettered_twice_stands_for_no_other() -> None:
    with NewestVersions() as newest:
        newest.add_passage(passage(version=1, offset=0))
        newest.add_passage(passage(version=2, offset=1, segment=(0, 3)))
        newest.add_dead_letter("a", 2, 1, (0, 2))
        newest.add_dead_letter("a", 2, 1, (0, 9))
        assert chosen(newest) == [0]
        newest.add_passage(passage(version=2, offset=12, segment=(1, 3)))
        assert chosen(newest) == [0], "a retry that succeeded and its dead letter are one segment"
        newest.add_passage(passage(version=2, offset=3, segment=(2, 3)))
        assert chosen(newest) == [1, 3, 12]


def test_a_version_that_is_all_dead_letters_leaves_the_one_before_it_standing() -> None:
    with NewestVersions() as newest:
        newest.add_passage(passage(version=1))
        newest.add_dead_letter("a", 2, 0, (0, 1))
        assert chosen(newest) == [0]
        assert newest.choose() == Choice(documents=1, passages=1, deleted=0, behind=1, absent=0)


def test_a_newer_deletion_drops_the_document_and_an_older_one_does_not() -> None:
    with NewestVersions() as newest:
        newest.add_passage(passage("gone", version=2, offset=0))
        newest.add_passage(passage("back", version=4, offset=7))
        newest.add_passage(passage("same", version=3, offset=9))
        for document in ("gone", "back", "same"):
            newest.add_deletion(document, 3, 8)
        newest.add_deletion("same", 2, 20)
        assert chosen(newest) == [7, 9]
        assert newest.choose() == Choice(documents=2, passages=2, deleted=1, behind=0, absent=0)


def test_documents_without_a_version_that_is_all_there_are_counted() -> None:
    with NewestVersions() as newest:
        newest.add_passage(passage("half", part=(0, 2)))
        newest.add_dead_letter("dead", 1, 0, (0, 1))
        newest.add_dead_letter("dead", 2, 0, (0, 2))
        newest.add_dead_letter("dead and gone", 1, 0, (0, 3))
        newest.add_deletion("dead and gone", 2, 4)
        newest.add_deletion("never seen", 2, 5)
        assert newest.choose() == Choice(documents=0, passages=0, deleted=0, behind=0, absent=2)


@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_the_order_in_which_records_are_read_does_not_matter(rng: random.Random, save_every: int) -> None:
    passages = [
        passage(document, version, 10 * version + 100 * number + segment, (segment, 2), (index, 2))
        for number, document in enumerate("abc")
        for version in (1, 2)
        for segment in (0, 1)
        for index in (0, 1)
        if (document, version, segment, index) != ("b", 2, 1, 1)
    ]
    rng.shuffle(passages)
    with NewestVersions() as newest:
        for number, each in enumerate(passages):
            newest.add_passage(each)
            if number % save_every == 0:
                newest.save()
        assert chosen(newest, range(400)) == [20, 21, 110, 111, 220, 221]


# Of a document: a record whose passages came (both, or the first only), a dead letter, or a deletion; under a
# version, which has two segments if it is odd.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["whole", "half", "dead", "dead unread", "deleted"]),
        st.integers(1, 4),
        st.integers(0, 1),
    ),
    max_size=12,
)


def chosen_by_the_rules(events: list[tuple[str, int, int]]) -> set[int]:
    """What `docs/formats.md` says, word by word; the number of an event is its offset."""
    for version in range(4, 0, -1):
        segments = 1 + version % 2
        of_version = [
            (what, segment % segments, offset)
            for offset, (what, its, segment) in enumerate(events)
            if its == version
        ]
        there = {segment: offset for what, segment, offset in of_version if what == "whole"}
        dead = {segment for what, segment, _ in of_version if what == "dead"}
        unread = sum(what == "dead unread" for what, *_ in of_version)
        if there and len(there.keys() | dead) + unread >= segments:
            deletions = [(its, offset) for offset, (what, its, _) in enumerate(events) if what == "deleted"]
            is_gone = any(each > (version, max(there.values())) for each in deletions)
            return set() if is_gone else set(there.values())
    return set()


@given(EVENTS, st.integers(1, 5))
def test_whatever_comes_in_whatever_order_the_rules_decide(
    events: list[tuple[str, int, int]], save_every: int
) -> None:
    with NewestVersions() as newest:
        for offset, (what, version, segment) in enumerate(events):
            segments = 1 + version % 2
            if what == "deleted":
                newest.add_deletion("a", version, offset)
            elif what.startswith("dead"):
                known = segment % segments if what == "dead" else None
                newest.add_dead_letter("a", version, known, (0, offset))
            else:
                for part in (0, 1) if what == "whole" else (0,):
                    newest.add_passage(
                        passage("a", version, offset, (segment % segments, segments), (part, 2))
                    )
            if offset % save_every == 0:
                newest.save()
        wanted = chosen_by_the_rules(events)
        assert set(chosen(newest, range(12))) == wanted
        assert newest.choose().passages == 2 * len(wanted)


def test_what_was_saved_is_there_when_the_file_is_opened_again_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "newest.sqlite"
    with NewestVersions(file) as newest:
        newest.add_passage(passage(part=(0, 2)))
        newest.add_number("read", 2)
        newest.add_number("read", 3)
        newest.save()
        newest.add_passage(passage(part=(1, 2)))
        newest.set_number("read", 9)
    with NewestVersions(file) as newest:
        assert newest.number("read") == 5
        assert newest.choose().documents == 0
        assert newest.add_passage(passage(part=(1, 2)))
        assert newest.choose().documents == 1


def test_a_file_that_another_has_open_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "newest.sqlite"
    with NewestVersions(file), pytest.raises(sqlite3.OperationalError, match="locked"):
        NewestVersions(file)


def test_more_records_than_are_held_in_memory_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstream.newest._HELD_RECORDS", 3)
    passages = [passage(f"{n}", offset=n, part=(part, 2)) for part in (0, 1) for n in range(20)]
    assert kept(*passages) == list(range(20))
