from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from producer.documents import RawDocument, ReadDocument, check
from producer.refusals import LASTING, Reason, Refusal
from producer.sources import is_known, read
from producer.walk import FoundFile, walk

TEXT = "\n\n# The Commune\n\nText."


def write_archive(root: Path, title: str = "Capital: a critique", **more: object) -> Path:
    """A text and its metadata as the archive's processor writes them: nothing is quoted."""
    digest = hashlib.sha256(TEXT.encode()).hexdigest()[:16]
    name = f"Capital-a-critique_{digest}"
    (root / "markdown").mkdir()
    (root / "metadata").mkdir()
    (root / "markdown" / f"{name}.md").write_text(
        f"---\ntitle: {title}\nauthor: Unknown\nsource_url: https://a.example/x.htm\ndate: Unknown\n"
        f"language: en\ndoc_type: html\nword_count: 4\n---\n\n{TEXT}"
    )
    metadata = {"title": title, "author": None, "date": "1871", "content_hash": digest, "word_count": 4}
    (root / "metadata" / f"{name}.json").write_text(json.dumps(metadata | more))
    return root / "markdown" / f"{name}.md"


def files(root: Path) -> tuple[list[FoundFile], list[Refusal]]:
    refusals: list[Refusal] = []
    return [f for batch in walk([root], is_known, refusals.append) for f in batch.files], refusals


def document(file: FoundFile) -> ReadDocument:
    (item,) = read(file, lambda _: None)
    assert isinstance(item, RawDocument), item
    return check(item)


def test_the_archives_own_layout_is_read_with_exact_content_and_metadata(tmp_path: Path) -> None:
    write_archive(tmp_path, original_path="/x/y.htm")
    (file,), refusals = files(tmp_path)
    read_one = document(file)
    assert read_one.content == TEXT
    assert read_one.metadata == {
        "title": "Capital: a critique",
        "date": "1871",
        "language": "en",
        "doc_type": "html",
        "source_url": "https://a.example/x.htm",
        "word_count": "4",
        "original_path": "/x/y.htm",
    }
    assert [(r.reason, r.reason.is_notice) for r in refusals] == [(Reason.SIDECAR, True)]


def test_a_content_hash_that_is_wrong_is_refused_there_too(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    path.write_text(path.read_text() + "more")
    (file,), _ = files(tmp_path)
    (item,) = read(file, lambda _: None)
    assert isinstance(item, RawDocument)
    with pytest.raises(Exception, match="content_hash"):
        check(item)


def test_without_its_metadata_file_the_front_matter_is_taken(tmp_path: Path) -> None:
    write_archive(tmp_path)
    for path in (tmp_path / "metadata").iterdir():
        path.unlink()
    (file,), refusals = files(tmp_path)
    assert document(file).metadata["title"] == "Capital: a critique"
    assert document(file).metadata["author"] == "Unknown"
    assert refusals == []


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.md.gz"])
def test_a_metadata_folder_within_that_of_the_texts_is_taken(tmp_path: Path, name: str) -> None:
    import gzip

    (tmp_path / "metadata").mkdir()
    (tmp_path / name).write_bytes(gzip.compress(b"Body.") if name.endswith(".gz") else b"Body.")
    (tmp_path / "metadata" / "a.json").write_text('{"title": "T"}')
    (file,), refusals = files(tmp_path)
    assert document(file).metadata == {"title": "T"}
    assert file.size == (tmp_path / name).stat().st_size + len('{"title": "T"}')
    assert [r.reason for r in refusals] == [Reason.SIDECAR]
    (alone,) = [f for batch in walk([tmp_path / name], is_known, print) for f in batch.files]
    assert alone.sidecar == file.sidecar


def test_a_file_changes_with_its_metadata(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    os.utime(path, ns=(0, 5_000))
    sidecar = next((tmp_path / "metadata").iterdir())
    os.utime(sidecar, ns=(0, 9_000))
    (before,), _ = files(tmp_path)
    assert before.mtime_ns == 14_000
    os.utime(sidecar, ns=(0, 3_000))  # another one, copied with its time
    (older,), _ = files(tmp_path)
    assert older.mtime_ns != before.mtime_ns
    sidecar.write_text('{"title": "Another"}')
    (after,), _ = files(tmp_path)
    assert (before.size, before.mtime_ns) != (after.size, after.mtime_ns)
    sidecar.unlink()
    (gone,), _ = files(tmp_path)
    assert (gone.sidecar, gone.mtime_ns) == ("", 5_000)


def test_json_in_a_metadata_folder_that_belongs_to_no_text_is_a_document(tmp_path: Path) -> None:
    write_archive(tmp_path)
    (tmp_path / "metadata" / "other.json").write_text('{"content": "x"}')
    found, _ = files(tmp_path)
    assert [f.relative for f in found if f.path.endswith("other.json")] == ["metadata/other.json"]
    assert len(found) == 2


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * 2_000_000 + b'"}']
)
def test_metadata_that_can_not_be_read_refuses_the_document(tmp_path: Path, data: bytes) -> None:
    write_archive(tmp_path)
    next((tmp_path / "metadata").iterdir()).write_bytes(data)
    (file,), _ = files(tmp_path)
    (item,) = read(file, lambda _: None)
    assert isinstance(item, Refusal)
    assert (item.reason, item.path) == (Reason.BAD_SIDECAR, file.path)
    assert "\n" not in item.message


def test_metadata_that_has_gone_since_the_walk_refuses_the_document(tmp_path: Path) -> None:
    write_archive(tmp_path)
    (file,), _ = files(tmp_path)
    Path(file.sidecar).unlink()
    (item,) = read(file, lambda _: None)
    assert isinstance(item, Refusal)
    # Tried again by the next run, though the text is as it was.
    assert item.reason == Reason.UNREADABLE
    assert item.reason not in LASTING
    assert file.sidecar in item.message
