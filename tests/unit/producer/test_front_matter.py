from __future__ import annotations

import time

import pytest

from producer.front_matter import MAX_FRONT_MATTER_CHARS, split_front_matter
from producer.refusals import Reason, RefusedError


def refused(text: str) -> str:
    with pytest.raises(RefusedError) as caught:
        split_front_matter(text)
    assert caught.value.reason == Reason.BAD_FRONT_MATTER
    return caught.value.message


def test_the_body_is_what_follows_the_closing_line_and_one_empty_line() -> None:
    fields, body = split_front_matter("---\ntitle: T\ntags: [a, b]\n---\n\n# Head\n---\nrest\n")
    assert fields == {"title": "T", "tags": ["a", "b"]}
    assert body == "# Head\n---\nrest\n"
    assert split_front_matter("---\na: b\n---\n\n\n body")[1] == "\n body"
    assert split_front_matter("---\na: b\n---\n body")[1] == " body"


@pytest.mark.parametrize("text", ["---\r\ntitle: T\r\n---\r\nbody", "--- \ntitle: T\n...\nbody"])
def test_other_line_ends_and_yamls_own_end_mark_are_taken(text: str) -> None:
    assert split_front_matter(text) == ({"title": "T"}, "body")


def test_values_are_what_the_file_says() -> None:
    text = (
        "---\nlanguage: no\ndate: 1917-10-25\nbad_date: 2024-13-45\ntime: 12:30\nyear: 0755\nnone:\n---\nbody"
    )
    assert split_front_matter(text)[0] == {
        "language": "no",
        "date": "1917-10-25",
        "bad_date": "2024-13-45",
        "time": "12:30",
        "year": "0755",
    }


@pytest.mark.parametrize(
    "text", ["# Head\n", "---\nno end of it\n", "----\na: b\n---\n", " ---\na: b\n---\n", ""]
)
def test_a_text_without_front_matter_is_all_body(text: str) -> None:
    assert split_front_matter(text) == ({}, text)


def test_empty_front_matter_holds_nothing() -> None:
    assert split_front_matter("---\n---\nbody") == ({}, "body")
    assert split_front_matter("---\n# a comment\n---\nbody") == ({}, "body")


@pytest.mark.parametrize(
    "front",
    ["title: a: b\nmore", "- a list", "just text", " a: \x07", "a:\n- [", "? [k]\n: v", "\ta: b"],
)
def test_what_is_no_mapping_in_yaml_is_refused(front: str) -> None:
    assert "front matter" in refused(f"---\n{front}\n---\nbody")


def test_lines_of_a_program_that_quotes_nothing_are_taken_as_they_stand() -> None:
    front = (
        "title: Capital: a critique\nauthor: 'Quoted: well'\nnote: *emphasis* here\nopen: [\n"
        'says: "yes" he said\n'
        "none:\nlanguage: no\nsource_url: https://a.example/b#c\nhash: a #b"
    )
    assert split_front_matter(f"---\n{front}\n---\nbody")[0] == {
        "title": "Capital: a critique",
        "author": "Quoted: well",
        "note": "*emphasis* here",
        "open": "[",
        "says": '"yes" he said',
        "language": "no",
        "source_url": "https://a.example/b#c",
        "hash": "a",
    }


def test_a_tag_that_would_run_code_is_only_text() -> None:
    fields, _ = split_front_matter("---\na: !!python/object/apply:os.abort []\n---\nbody")
    assert fields == {"a": []}


def test_aliases_are_refused_before_they_multiply() -> None:
    lines = ["list:", "- a", "a0: &a0 x"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)
    ]
    assert "alias" in refused("---\n" + "\n".join(lines) + "\n---\nbody")


@pytest.mark.parametrize("opening", ["[", "- ", "? ", "{a: "])
def test_a_nesting_that_would_end_the_process_is_refused(opening: str) -> None:
    started = time.process_time()
    assert "deep" in refused("---\n" + opening * (MAX_FRONT_MATTER_CHARS // 4 - 10) + "\n---\nbody")
    assert time.process_time() - started < 2.0


def test_front_matter_of_megabytes_is_refused_unread() -> None:
    assert "longer" in refused("---\na: " + "x" * MAX_FRONT_MATTER_CHARS + "\n---\nbody")
