from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from embedstream.errors import UsageError
from producer import walk as module
from producer.refusals import Reason, Refusal
from producer.sources import SOURCES, is_known
from producer.walk import Batch, FoundFile, check_paths, walk


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def walked(*paths: Path | str) -> tuple[list[str], list[Refusal]]:
    refusals: list[Refusal] = []
    return [
        file.relative for batch in walk(paths, is_known, refusals.append) for file in batch.files
    ], refusals


def reasons(refusals: list[Refusal]) -> dict[Reason, int]:
    return dict(Counter(refusal.reason for refusal in refusals))


def test_files_come_in_order_with_paths_relative_to_the_root(tmp_path: Path) -> None:
    make(tmp_path, "b/2.json", "b/10.json", "a.md", "c.txt", "b/x/y.jsonl.gz")
    names = ["a.md", "c.txt", "b/10.json", "b/2.json", "b/x/y.jsonl.gz"]
    assert walked(tmp_path) == (names, [])
    assert walked(f"{tmp_path}/")[0] == names
    assert walked(tmp_path / "b")[0] == ["10.json", "2.json", "x/y.jsonl.gz"]
    assert walked(tmp_path / "b" / "2.json", tmp_path / "a.md")[0] == ["2.json", "a.md"]


def test_the_working_folder_is_a_root_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "b/2.json")
    monkeypatch.chdir(tmp_path)
    assert walked(".")[0] == ["b/2.json"]


def test_what_is_hidden_or_unknown_is_counted_and_passed_over(tmp_path: Path) -> None:
    make(tmp_path, ".hidden.json", ".git/a.json", "a.html", "noext", "d/b.pdf", "ok.txt")
    names, refusals = walked(tmp_path)
    assert names == ["ok.txt"]
    assert reasons(refusals) == {Reason.HIDDEN: 2, Reason.UNKNOWN_SUFFIX: 3}
    assert all(refusal.reason.is_notice for refusal in refusals)


def test_links_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    make(tmp_path, "corpus/a.json", "other/b.json")
    corpus = tmp_path / "corpus"
    (corpus / "link").symlink_to(tmp_path / "other")
    (corpus / "file.txt").symlink_to(tmp_path / "other" / "b.json")
    (corpus / "loop").symlink_to(corpus)
    (tmp_path / "other" / "back").symlink_to(corpus)
    (corpus / "self.json").symlink_to(corpus / "self.json")
    (corpus / "nothing.json").symlink_to(tmp_path / "gone")
    names, refusals = walked(corpus)
    assert names == ["a.json", "file.txt", "link/b.json"]
    assert reasons(refusals) == {Reason.SYMLINK_LOOP: 3, Reason.VANISHED: 1}


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    names, refusals = walked(tmp_path)
    assert names == []
    assert reasons(refusals) == {Reason.NOT_A_FILE: 1}


def test_a_name_that_is_not_utf8_becomes_text_that_can_be_sent(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).touch()
    ((file,),) = (batch.files for batch in walk([tmp_path], is_known, lambda _: None))
    assert file.relative == "caf\\xe9.txt"
    assert Path(file.path).exists()


def test_a_folder_that_may_not_be_read_is_refused_and_the_rest_goes_on() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        make(root, "a/1.json", "b/2.json", "c/3.json")
        (root / "b").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65_534)
            names, refusals = walked(root)
        finally:
            os.seteuid(user)
        (root / "b").chmod(0o755)
    assert names == ["a/1.json", "c/3.json"]
    assert reasons(refusals) == {Reason.UNREADABLE: 1}
    assert refusals[0].path == str(root / "b")


def test_a_folder_that_goes_while_it_is_walked_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.json", "b/2.json", "c.json")
    refusals: list[Refusal] = []
    batches = walk([tmp_path], is_known, refusals.append)
    first = next(batches)
    (tmp_path / "b" / "2.json").unlink()
    (tmp_path / "b").rmdir()
    assert [file.relative for file in first.files] == ["a.json", "c.json"]
    assert list(batches) == []
    assert reasons(refusals) == {Reason.VANISHED: 1}


def test_a_huge_folder_comes_in_batches_each_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_FILES", 10)
    make(tmp_path, *(f"{n:03}.json" for n in range(35)), *(f"d{n:02}/a.json" for n in range(15)))
    batches = list(walk([tmp_path], is_known, lambda _: None))
    assert {batch.root for batch in batches} == {str(tmp_path)}
    own = [[file.relative for file in batch.files] for batch in batches if not batch.folder]
    assert sorted(name for names in own for name in names) == [f"{n:03}.json" for n in range(35)]
    assert all(names == sorted(names) and 1 <= len(names) <= 10 for names in own)
    inner = {batch.folder: batch.files for batch in batches if batch.folder}
    assert {f"d{n:02}/" for n in range(15)} == inner.keys()
    assert all([file.relative for file in files] == [f"{name}a.json"] for name, files in inner.items())


def test_each_file_comes_with_its_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    os.utime(tmp_path / "a.txt", ns=(0, 1_700_000_000_123_456_789))
    for path in (tmp_path, tmp_path / "a.txt"):
        ((file,),) = (batch.files for batch in walk([path], is_known, lambda _: None))
        assert (file.size, file.mtime_ns) == (5, 1_700_000_000_123_456_789)


def test_a_walk_that_is_given_up_closes_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_FILES", 2)
    make(tmp_path, *(f"{n}.json" for n in range(9)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    batches = walk([tmp_path], is_known, lambda _: None)
    next(batches)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
    batches.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_folders_deeper_than_pythons_stack_are_walked(tmp_path: Path) -> None:
    make(tmp_path, "d/" * 300 + "a.txt")
    depth = len(inspect.stack())
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 150)
    try:
        (name,), refusals = walked(tmp_path)
    finally:
        sys.setrecursionlimit(before)
    assert name == "d/" * 300 + "a.txt"
    assert refusals == []


@pytest.mark.parametrize("name", ["gone", "gone.json"])
def test_a_path_that_does_not_exist_is_a_wrong_command_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        check_paths([tmp_path, tmp_path / name], is_known, SOURCES)


def test_a_file_of_no_known_kind_or_nothing_at_all_is_a_wrong_command_line(tmp_path: Path) -> None:
    make(tmp_path, "a.html", ".b.txt")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="no known kind"):
        check_paths([tmp_path / "a.html"], is_known, SOURCES)
    with pytest.raises(UsageError, match="neither"):
        check_paths([tmp_path / "pipe.json"], is_known, SOURCES)
    with pytest.raises(UsageError, match="nothing"):
        check_paths([], is_known, SOURCES)
    check_paths([tmp_path, tmp_path / ".b.txt"], is_known, SOURCES)


def test_a_file_named_by_itself_is_taken_though_it_is_hidden(tmp_path: Path) -> None:
    make(tmp_path, ".b.txt")
    path = tmp_path / ".b.txt"
    found = path.stat()
    file = FoundFile(str(path), ".b.txt", 0, found.st_mtime_ns)
    assert list(walk([path], is_known, lambda _: None)) == [Batch(str(path), "", [file])]
