from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.filters import Filter
from producer.refusals import Reason, Refusal
from producer.sources import is_known
from producer.walk import walk


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.md", "a.md", True),
        ("*.md", "x/y/a.md", True),
        ("*.md", "a.md.gz", False),
        ("*.MD", "a.md", False),
        ("drafts", "drafts/a.md", True),
        ("drafts", "x/drafts/y/a.md", True),
        ("drafts", "x/drafts2/a.md", False),
        ("drafts/", "x/drafts/a.md", True),
        ("x/*.md", "x/a.md", True),
        ("x/*.md", "x/y/a.md", False),
        ("x/*.md", "y/x/a.md", False),
        ("/a.md", "a.md", True),
        ("x/**/a.md", "x/a.md", True),
        ("x/**/a.md", "x/y/z/a.md", True),
        ("x/**", "x/y/z/a.md", True),
        ("x/**", "y/a.md", False),
        ("**/a.md", "a.md", True),
        ("shard_0?0_*", "shard_010_020/a.json", True),
        ("shard_0?0_*", "shard_011_020/a.json", False),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "b.txt", False),
        ("[a-c].txt", "x/b.txt", True),
        ("a+(b).txt", "a+(b).txt", True),
        ("a.txt", "abtxt", False),
    ],
)
def test_a_glob_means_what_the_module_says(pattern: str, path: str, matches: bool) -> None:
    assert Filter(include=[pattern]).takes(path) == matches
    assert Filter(exclude=[pattern]).takes(path) != matches


def test_an_exclude_wins_over_an_include_and_any_include_is_enough() -> None:
    wanted = Filter(include=["*.md", "*.txt"], exclude=["old"])
    assert [wanted.takes(p) for p in ("a.md", "a.txt", "a.json", "old/a.md")] == [True, True, False, False]
    assert not wanted.enters("x/old")
    assert wanted.enters("x/new")
    assert not Filter()
    assert Filter().takes("anything")


@given(st.text(alphabet="ab*?[]!-^&|~\\/.#( )é\n", max_size=12), st.text(alphabet="ab/.\n", max_size=12))
def test_no_pattern_is_a_wrong_expression(pattern: str, path: str) -> None:
    Filter(include=[pattern], exclude=[pattern]).takes(path)


@given(st.text(alphabet="ab.(+é ", min_size=1, max_size=8))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    assert Filter(include=[name]).takes(name)
    assert not Filter(include=[name]).takes(name + "x")


def test_an_excluded_folder_is_not_even_opened_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "old/c.md", "new/old/d.md", "new/e.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    refusals: list[Refusal] = []
    wanted = Filter(include=["*.md"], exclude=["old"])
    found = [f.relative for b in walk([tmp_path], is_known, refusals.append, wanted) for f in b.files]
    assert found == ["a.md", "new/e.md"]
    assert {(r.reason, r.path) for r in refusals} == {
        (Reason.EXCLUDED, str(tmp_path / name)) for name in ("b.txt", "old", "new/old")
    }
    assert all(r.reason.is_notice for r in refusals)
    assert not any(re.search("old/", r.path) for r in refusals)
