from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstream.newest import NewestVersions
from embedstream.search import Index
from schemas.records import Embedding, PassagePart, SegmentPart, SourcePosition


def passage(
    document: str = "a",
    version: int = 1,
    offset: int = 0,
    segment: tuple[int, int] = (0, 1),
    part: tuple[int, int] = (0, 1),
    vector: tuple[float, ...] = (1.0, 0.0),
) -> Embedding:
    return Embedding(
        id=f"{document}-{version}-{offset}-{part[0]}",
        document_id=document,
        document_version=version,
        content_hash="0" * 64,
        source=SourcePosition(topic="documents", partition=0, offset=offset),
        segment=SegmentPart(index=segment[0], count=segment[1]),
        passage=PassagePart(index=part[0], count=part[1]),
        start_char=0,
        end_char=1,
        text="x",
        token_count=3,
        model="m",
        model_fingerprint="f",
        precision="fp32",
        dim=len(vector),
        metadata={},
        embedded_at=1,
        vector=np.array(vector, np.float32),
    )


def kept(*passages: Embedding) -> list[str]:
    newest = NewestVersions()
    for each in passages:
        newest.add_passage(each)
    return [each.id for each in newest.passages()]


def test_only_the_newest_version_is_kept_even_if_an_older_one_comes_late() -> None:
    assert kept(passage(version=2, offset=5), passage(version=1, offset=9)) == ["a-2-5-0"]


def test_a_record_sent_again_under_its_version_replaces_the_first() -> None:
    assert kept(passage(offset=3), passage(offset=8)) == ["a-1-8-0"]


def test_a_passage_delivered_again_is_there_once() -> None:
    assert kept(passage(), passage()) == ["a-1-0-0"]


def test_an_incomplete_version_leaves_the_one_before_it_standing() -> None:
    old = passage(version=1, offset=0)
    first = passage(version=2, offset=1, segment=(0, 2))
    assert kept(old, first) == ["a-1-0-0"]
    assert kept(old, first, passage(version=2, offset=2, segment=(1, 2))) == ["a-2-1-0", "a-2-2-0"]
    assert kept(old, passage(version=2, offset=1, part=(0, 2))) == ["a-1-0-0"]


def test_a_version_with_a_dead_letter_for_a_segment_is_complete() -> None:
    newest = NewestVersions()
    newest.add_passage(passage(version=1, offset=0))
    newest.add_passage(passage(version=2, offset=1, segment=(0, 2)))
    newest.add_dead_letter("a", 2, SourcePosition(topic="documents", partition=0, offset=2))
    assert [each.id for each in newest.passages()] == ["a-2-1-0"]


def test_a_version_that_is_all_dead_letters_leaves_the_one_before_it_standing() -> None:
    newest = NewestVersions()
    newest.add_passage(passage(version=1))
    newest.add_dead_letter("a", 2, SourcePosition(topic="documents", partition=0, offset=1))
    assert [each.id for each in newest.passages()] == ["a-1-0-0"]


def test_a_newer_deletion_drops_the_document_and_an_older_one_does_not() -> None:
    newest = NewestVersions()
    newest.add_passage(passage("gone", version=2, offset=0))
    newest.add_passage(passage("back", version=4, offset=7))
    newest.add_passage(passage("same", version=3, offset=9))
    for document in ("gone", "back", "same"):
        newest.add_deletion(document, 3, 8)
    assert [each.document_id for each in newest.passages()] == ["back", "same"]


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_records_are_read_does_not_matter(rng: random.Random) -> None:
    passages = [
        passage(document, version, 10 * version + segment, (segment, 2), (index, 2))
        for document in "abc"
        for version in (1, 2)
        for segment in (0, 1)
        for index in (0, 1)
        if (document, version, segment, index) != ("b", 2, 1, 1)
    ]
    expected = kept(*passages)
    rng.shuffle(passages)
    assert kept(*passages) == expected
    assert len(expected) == 12
    assert next(each for each in expected if each.startswith("b")).startswith("b-1")


def test_the_nearest_passages_are_those_of_a_full_comparison() -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Index([passage(f"{row:02}", vector=tuple(map(float, v))) for row, v in enumerate(vectors)])
    question = vectors[17]
    hits = index.nearest(question, 5)
    cosines = [float(np.dot(question, vector)) for vector in vectors]
    assert hits[0].passage.document_id == "17"
    np.testing.assert_allclose([hit.score for hit in hits], sorted(cosines, reverse=True)[:5], rtol=1e-6)
    assert index.dim == 8


def test_an_index_of_nothing_finds_nothing() -> None:
    assert Index([]).nearest(np.ones(3, np.float32), 5) == []
    assert Index([]).dim == 0
