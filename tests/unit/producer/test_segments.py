from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.segments import MIN_SEGMENT_BYTES, cut

texts = st.text(
    st.sampled_from("ab.!?。 \n\r\t\u3000é漢😀") | st.characters(exclude_categories=["Cs"]), max_size=300
)
limits = st.integers(MIN_SEGMENT_BYTES, 64)


@given(texts, limits)
def test_the_segments_joined_are_the_text(text: str, limit: int) -> None:
    assert "".join(cut(text, limit)) == text


@given(texts, limits)
def test_no_segment_takes_more_bytes_than_allowed_and_none_is_empty(text: str, limit: int) -> None:
    segments = cut(text, limit)
    assert all(len(segment.encode()) <= limit for segment in segments)
    assert all(segments) or segments == [""]


@given(texts, limits)
def test_a_text_that_fits_is_one_segment(text: str, limit: int) -> None:
    assert (len(cut(text, limit)) == 1) == (len(text.encode()) <= limit)


@given(st.lists(st.sampled_from(["aa", "漢", ". ", "\n\n", " "]), max_size=60).map("".join), limits)
def test_a_paragraph_in_the_second_half_is_preferred_to_all_else(text: str, limit: int) -> None:
    body = len(text.rstrip())
    start = 0
    for segment in cut(text, limit)[:-1]:
        end = start + len(segment)
        if end < body - 1:  # the end of the text has a rule of its own
            data = text[start:].encode()[:limit]
            if data.find(b"\n\n", limit // 2 + 1) >= 0 and start + len(data.decode(errors="ignore")) < body:
                assert segment.endswith("\n\n")
        start = end


def test_paragraphs_come_before_sentences_before_words_before_characters() -> None:
    assert cut("aaaaaaaa\n\nb. b bbbbbbbb", 16)[0] == "aaaaaaaa\n\n"
    assert cut("aaaaaaaab. b bbbbbbbb", 16)[0] == "aaaaaaaab. "
    assert cut("aaaaaaaabb b bbbbbbbb", 16)[0] == "aaaaaaaabb b "
    assert cut("aaaaaaaabbbbbbbbbbbbb", 16)[0] == "a" * 8 + "b" * 8
    assert cut("漢字。漢字漢字", 12)[0] == "漢字。"
    assert cut("漢" * 7, 16)[0] == "漢" * 5


def test_a_boundary_in_the_first_half_is_not_worth_a_small_segment() -> None:
    assert cut("aa\n\n" + "b" * 30, 16)[0] == "aa\n\n" + "b" * 12


def test_white_space_at_the_end_stays_with_the_last_word() -> None:
    for blank in ("\n", " \n\n", "\u3000"):
        segments = cut("a" * 16 + blank, 16)
        assert len(segments) == 2
        assert segments[-1] == "a" + blank
    assert cut("a" * 4 + "\n" * 40, 16)[0].startswith("aaaa")


def test_more_white_space_than_fits_a_segment_is_cut_all_the_same() -> None:
    text = "a" + " " * 100
    assert "".join(cut(text, 16)) == text


def test_a_limit_that_holds_no_character_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        cut("a", 3)


@pytest.mark.parametrize("text", ["a" * 20_000_000, "漢" * 7_000_000, " " * 20_000_000, "a b" * 7_000_000])
def test_twenty_megabytes_on_one_line_are_cut_fast(text: str) -> None:
    started = time.process_time()
    segments = cut(text, 262_144)
    assert time.process_time() - started < 2.0  # takes 0.1 s; what is quadratic takes minutes
    assert len(segments) < 170
