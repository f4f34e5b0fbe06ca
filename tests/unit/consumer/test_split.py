from __future__ import annotations

import time
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from consumer.split import Split, Splitter
from tests.models import bert_tokenizer, corpus_texts, roberta_tokenizer

TOKENIZERS = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}
SENTENCE = "The quick brown fox jumps over the lazy dog. "


@cache
def tokenizer(kind: str) -> Tokenizer:
    plain = TOKENIZERS[kind]()
    plain.no_truncation()
    plain.no_padding()
    return plain


@cache
def splitter(
    kind: str = "bert", window: int = 64, overflow: Literal["split", "truncate"] = "split", prompt: str = ""
) -> Splitter:
    return Splitter(TOKENIZERS[kind](), window, overflow, prompt)


def split(text: str, kind: str = "bert", window: int = 64) -> Split:
    [result] = splitter(kind, window).split_many([text])
    return result


def passage_texts(text: str, result: Split) -> list[str]:
    return [text[passage.start_char : passage.end_char] for passage in result.passages]


def check(text: str, result: Split, window: int) -> None:
    """What holds for every text: covered from end to end, without overlap, each passage in the window."""
    assert not result.truncated
    assert result.passages[0].start_char == 0
    assert result.passages[-1].end_char == len(text)
    for before, after in pairwise(result.passages):
        assert before.end_char == after.start_char
    for passage in result.passages:
        assert passage.start_char < passage.end_char
        assert passage.token_ids.dtype == np.int32
        assert 2 < len(passage.token_ids) <= window
        assert passage.token_count == len(passage.token_ids)


@pytest.mark.parametrize("window", [128, 256, 512])
def test_the_passages_of_long_documents_are_nearly_full(window: int) -> None:
    texts = corpus_texts(every=6)
    if not texts:
        pytest.skip("no corpus beside the checkout")
    fills = []
    for each in splitter(window=window).split_many(texts):
        counts = [passage.token_count for passage in each.passages]
        if sum(counts) > 2 * window:
            fills += [count / window for count in counts]
    assert len(fills) > 100
    assert np.mean(fills) >= 0.85


# What makes cutting hard: marks, emoji of several characters, other scripts, what becomes no token.
HARD = st.lists(
    st.sampled_from(
        [
            "word ",
            "Satz.",
            " ",
            "\n\n",
            "e\u0301",
            "👩‍👩‍👧‍👦",
            "漢字。",
            "مرحبا",
            "\0",
            "ﷺ",
            "x" * 130,
            "[SEP]",
            "</s>",
            "“quoted.” ",
        ]
    ),
    max_size=60,
).map("".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None)
@given(text=st.text(max_size=300) | HARD, window=st.integers(3, 24))
def test_passages_cover_any_text_and_fit_any_window(kind: str, text: str, window: int) -> None:
    result = split(text, kind, window)
    if result.passages:
        check(text, result, window)
    else:
        assert not text.strip() or not tokenizer(kind).encode(text, add_special_tokens=False).ids


@settings(deadline=None)
@given(text=st.text(max_size=300) | HARD, window=st.integers(24, 64))
def test_the_tokens_of_the_passages_are_those_of_the_text(text: str, window: int) -> None:
    [whole] = [tokenizer("bert").encode(text, add_special_tokens=False)]
    result = split(text, "bert", window)
    joined = [token for passage in result.passages for token in passage.token_ids[1:-1]]
    assert joined == (whole.ids if result.passages else [])


@pytest.mark.parametrize("text", ["", " ", " \n\t\u2003\n"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_white_space_has_no_passage(kind: str, text: str) -> None:
    assert split(text, kind) == Split((), truncated=False)


def test_a_text_that_the_tokenizer_makes_nothing_of_has_no_passage() -> None:
    assert split("\0\0\u200b").passages == ()


def test_a_short_text_is_one_passage_between_the_special_tokens() -> None:
    [passage] = split("Hello world").passages
    expected = tokenizer("bert").encode("Hello world").ids
    assert passage.token_ids.tolist() == expected
    assert (passage.start_char, passage.end_char, passage.token_count) == (0, 11, 4)


@pytest.mark.parametrize("tokens", [62, 63])
def test_a_text_just_as_long_as_the_window_is_not_cut(tokens: int) -> None:
    result = split("dog " * tokens)
    assert len(result.passages) == (1 if tokens == 62 else 2)


def test_a_sentence_end_late_in_the_window_is_where_it_is_cut() -> None:
    text = SENTENCE * 20
    parts = passage_texts(text, split(text))
    assert all(part.endswith("dog.") for part in parts[:-1])
    assert len(parts) == 4


def test_closing_quotes_stay_with_their_sentence() -> None:
    text = "word " * 50 + "He said (“no!”) " + "and more " * 40
    assert passage_texts(text, split(text))[0].endswith("He said (“no!”)")


def test_a_paragraph_ends_before_an_empty_line_even_without_a_mark() -> None:
    text = "word " * 52 + "Heading\n \n" + "more " * 40
    assert passage_texts(text, split(text))[0].endswith("Heading")


def test_a_sentence_end_early_in_the_window_is_not_worth_a_short_passage() -> None:
    text = "An early end. " + "word " * 100
    result = split(text)
    assert len(result.passages[0].token_ids) == 64


def test_a_mark_within_a_number_is_no_sentence_end() -> None:
    text = "word " * 52 + "3.14159 " + "word " * 60
    assert "3.14159" in passage_texts(text, split(text))[0]


def test_without_a_sentence_end_words_stay_whole() -> None:
    text = "extraordinarily uncharacteristic " * 60
    for part in passage_texts(text, split(text)):
        assert set(part.split()) <= {"extraordinarily", "uncharacteristic"}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ideographs_are_cut_at_their_full_stop(kind: str) -> None:
    text = "春眠不覚暁。" * 60
    parts = passage_texts(text, split(text, kind, 64))
    assert all(part.endswith("。") for part in parts)


def test_ideographs_without_any_stop_fill_the_window() -> None:
    result = split("漢字" * 200)
    assert all(len(passage.token_ids) == 64 for passage in result.passages[:-1])


def test_words_without_spaces_are_cut_between_them() -> None:
    text = "extraordinary,uncharacteristic," * 40
    parts = passage_texts(text, split(text, "roberta", 40))
    assert len(parts) > 5
    for part in parts:
        assert set(part.split(",")) <= {"", "extraordinary", "uncharacteristic"}


def test_a_giant_word_of_a_byte_level_tokenizer_is_cut_between_characters() -> None:
    text = "🦊é" * 400
    result = split(text, "roberta", 32)
    check(text, result, 32)
    for part, passage in zip(passage_texts(text, result), result.passages, strict=True):
        assert tokenizer("roberta").encode(part).ids == passage.token_ids.tolist()


def test_a_character_of_more_tokens_than_fit_is_read_as_far_as_it_fits() -> None:
    text = "a🦊b"
    result = split(text, "roberta", 4)
    check(text, result, 4)
    assert max(len(passage.token_ids) for passage in result.passages) == 4


def test_accents_stay_with_their_letter() -> None:
    text = "cafe\u0301 " * 150
    assert all(not part.startswith("\u0301") for part in passage_texts(text, split(text)))


def test_a_word_that_becomes_unknown_is_covered() -> None:
    text = "before " + "x" * 100_000 + " after"
    [passage] = split(text).passages
    assert (passage.start_char, passage.end_char) == (0, len(text))


def test_truncate_keeps_the_first_passage_and_says_so() -> None:
    text = SENTENCE * 20
    [short, long, blank] = splitter(overflow="truncate").split_many([SENTENCE, text, " "])
    assert (len(short.passages), short.truncated) == (1, False)
    assert (len(long.passages), long.truncated) == (1, True)
    assert (len(blank.passages), blank.truncated) == (0, False)
    first, expected = long.passages[0], split(text).passages[0]
    assert first.token_ids.tolist() == expected.token_ids.tolist()
    assert (first.start_char, first.end_char) == (0, expected.end_char)


def test_a_document_prompt_stands_before_every_passage_and_counts() -> None:
    with_prompt = splitter(prompt="passage: ")
    assert with_prompt.prefix_length == 3
    text = SENTENCE * 20
    [result] = with_prompt.split_many([text])
    check(text, result, 64)
    for passage, part in zip(result.passages, passage_texts(text, result), strict=True):
        assert tokenizer("bert").encode("passage: " + part).ids == passage.token_ids.tolist()


def test_a_model_without_special_tokens_gets_none() -> None:
    bare = bert_tokenizer()
    bare.post_processor = None
    [result] = Splitter(bare, 8).split_many(["dog " * 12])
    assert [len(passage.token_ids) for passage in result.passages] == [8, 4]


def test_special_tokens_of_roberta_are_found() -> None:
    [passage] = split("Hello", "roberta").passages
    assert (passage.token_ids[0], passage.token_ids[-1]) == (0, 2)
    assert splitter("roberta").prefix_length == 1


def test_a_window_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        Splitter(bert_tokenizer(), 2)


def test_the_tokenizer_given_may_be_changed_afterwards() -> None:
    given = bert_tokenizer()
    mine = Splitter(given, 64)
    given.enable_truncation(4)
    [result] = mine.split_many([SENTENCE])
    assert len(result.passages[0].token_ids) == 12


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦🏳️‍🌈" * 9000,
        "مرحبا بالعالم. " * 17_000,
        "漢字" * 43_000,
        "x" * 262_144,
        "\0" * 262_143 + "a",
        SENTENCE * 5800,
        "." * 262_144,
        "\n" * 262_143 + "x",
        ("a" + " " * 2000) * 131,
        ("\n" + " " * 200) * 1300 + "x",
        "aB3+" * 65_536,
        "e\u0301" * 87_000,
        "." + "”" * 262_143,
    ],
    ids=lambda text: ascii(text[:6]),
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_of_256_kib_takes_no_more_a_character_than_a_short_one(kind: str, text: str) -> None:
    def seconds(part: str) -> float:
        started = time.process_time()
        result = split(part, kind, 512)
        spent = time.process_time() - started
        check(part, result, 512)
        return spent

    short = min(seconds(text[-len(text) // 8 :]) for _ in range(3))
    # Eight times as long; what grows with the square of the text takes 64 times as long.
    assert min(seconds(text) for _ in range(2)) < 24 * max(short, 0.005)


def test_passages_of_real_documents_read_what_their_text_alone_would_give() -> None:
    texts = corpus_texts(every=6)
    if not texts:
        pytest.skip("no corpus beside the checkout")
    for text, result in zip(texts, splitter(window=256).split_many(texts), strict=True):
        check(text, result, 256)
        alone = tokenizer("bert").encode_batch(passage_texts(text, result))
        for passage, encoding in zip(result.passages, alone, strict=True):
            assert passage.token_ids.tolist() == encoding.ids


@pytest.mark.parametrize(("kind", "window"), [("bert", 128), ("bert", 256), ("bert", 512), ("roberta", 512)])
def test_passages_of_real_documents_are_full(kind: str, window: int) -> None:
    texts = corpus_texts(every=3)
    if not texts:
        pytest.skip("no corpus beside the checkout")
    results = [each for each in splitter(kind, window).split_many(texts) if len(each.passages) > 2]
    fullness = [np.mean([len(passage.token_ids) / window for passage in each.passages]) for each in results]
    assert len(results) > 10
    assert np.mean(fullness) >= 0.85
