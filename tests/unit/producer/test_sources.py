from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from producer import source
from producer.documents import RawDocument, check
from producer.refusals import Reason, Refusal, RefusedError, printable
from producer.sources import is_known, read
from producer.walk import FoundFile


def read_file(path: Path) -> list[RawDocument | Refusal]:
    taken: list[int] = []
    found = list(read(FoundFile(str(path), printable(path.name)), taken.append))
    if path.is_file():
        assert sum(taken) <= path.stat().st_size
    return found


def only(path: Path, data: bytes) -> RawDocument | Refusal:
    path.write_bytes(data)
    (item,) = read_file(path)
    return item


def reason(path: Path, data: bytes) -> Reason:
    item = only(path, data)
    assert isinstance(item, Refusal), item
    assert item.path == str(path)
    assert item.message
    assert "\n" not in item.message
    return item.reason


def reason_all_the_way(path: Path, data: bytes) -> Reason:
    """The reason, whether the source refuses it or the check that follows."""
    item = only(path, data)
    if isinstance(item, Refusal):
        return item.reason
    with pytest.raises(RefusedError) as caught:
        check(item)
    return caught.value.reason


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *[(name, True) for name in ("a.json", "a.JSONL", "a.ndjson.gz", "a.md.zst", "b.a.txt", "a.Json.GZ")],
        *[(name, False) for name in ("a", "a.gz", "json", "a.json.bz2", "a.json.gz.zst", "a.html", "a.")],
    ],
)
def test_a_source_is_chosen_by_the_suffix(name: str, known: bool) -> None:
    assert is_known(name) == known


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Reason.NOT_JSON),
        (b'{"content": "T', Reason.NOT_JSON),
        (b'{"content": "T"} more', Reason.NOT_JSON),
        (b'{"content": "T", "n": ' + b"1" * 5000 + b"}", Reason.NOT_JSON),
        (b'["a"]', Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'{"title": "T"}', Reason.NO_CONTENT),
        (b'{"content": ""}', Reason.EMPTY),
        (b'{"content": " \\n\\t"}', Reason.EMPTY),
        (b'{"content": 7}', Reason.CONTENT_NOT_TEXT),
        (b'{"content": "\xff"}', Reason.NOT_UTF8),
        (b'{"content": "\xed\xa0\x80"}', Reason.NOT_UTF8),
        ('{"content": "T"}'.encode("utf-16"), Reason.NOT_UTF8),
        (b'{"content": "\\ud800"}', Reason.LONE_SURROGATE),
        (b'{"content": "T", "title": "\\udfff"}', Reason.LONE_SURROGATE),
        (b'{"content": "T", "content_hash": "0123456789abcdef"}', Reason.WRONG_HASH),
        (b'{"content": "T", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.NESTED_TOO_DEEP),
        (b"[" * 100_000, Reason.NESTED_TOO_DEEP),
    ],
)
def test_a_bad_json_file_is_refused_by_reason_and_a_bad_line_alone(
    tmp_path: Path, data: bytes, expected: Reason
) -> None:
    assert reason_all_the_way(tmp_path / "a.json", data) == expected
    if b"\n" in data or not data or data.startswith(b"\xff\xfe"):
        return
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"content": "before"}) + data + b"\n" + lines({"content": "after"}))
    before, item, after = read_file(path)
    assert isinstance(before, RawDocument)
    assert isinstance(after, RawDocument)
    assert (before.content, after.content, after.line) == ("before", "after", 3)
    if isinstance(item, Refusal):
        assert (item.reason, item.path) == (expected, f"{path}:2")
    else:
        assert item.where == f"{path}:2"


def test_a_json_file_is_one_document_with_its_other_fields(tmp_path: Path) -> None:
    item = only(tmp_path / "a.json", '\ufeff{"content": "T 😀", "title": "漢"}'.encode())
    assert isinstance(item, RawDocument)
    assert (item.content, item.fields) == ("T 😀", {"title": "漢"})
    assert (item.source, item.relative, item.line) == (str(tmp_path / "a.json"), "a.json", None)


def test_escaped_pairs_nuls_and_scripts_come_through(tmp_path: Path) -> None:
    item = only(tmp_path / "a.json", b'{"content": "\\ud83d\\ude00 \\u0000 \\u05d0 \\u6f22"}')
    assert isinstance(item, RawDocument)
    assert item.content == "😀 \x00 א 漢"


def test_json_lines_pass_over_empty_lines_and_need_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + lines({"content": "a\nb"}) + b"\r\n \n" + b'{"content": "last"}')
    found = [item for item in read_file(path) if isinstance(item, RawDocument)]
    assert [(item.content, item.line) for item in found] == [("a\nb", 1), ("last", 4)]


def test_markdown_has_its_front_matter_as_fields(tmp_path: Path) -> None:
    item = only(tmp_path / "a.md", "---\ntitle: Über\ncontent: kept\n---\n# Head\n\nBody.\n".encode())
    assert isinstance(item, RawDocument)
    assert (item.content, item.fields) == ("# Head\n\nBody.\n", {"title": "Über", "content": "kept"})


def test_broken_front_matter_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.md", b"---\ntitle: a: b\nmore\n---\nbody") == Reason.BAD_FRONT_MATTER
    assert reason(tmp_path / "b.md", b"---\ntitle: \xff\n---\nbody") == Reason.NOT_UTF8


def test_plain_text_is_all_content(tmp_path: Path) -> None:
    item = only(tmp_path / "a.txt", b"\xef\xbb\xbf---\r\nnot: front matter\r\n---\r\n\x00")
    assert isinstance(item, RawDocument)
    assert (item.content, item.fields) == ("---\r\nnot: front matter\r\n---\r\n\x00", {})


def test_a_text_that_is_empty_or_not_utf8_is_refused(tmp_path: Path) -> None:
    assert reason_all_the_way(tmp_path / "a.txt", b"") == Reason.EMPTY
    assert reason_all_the_way(tmp_path / "b.txt", b" \n") == Reason.EMPTY
    assert reason_all_the_way(tmp_path / "c.txt", b"caf\xe9") == Reason.NOT_UTF8


def compressed(suffix: str, data: bytes) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".md", ".txt"])
def test_every_kind_is_read_compressed_too(tmp_path: Path, kind: str, suffix: str) -> None:
    data = json.dumps({"content": "T"}).encode()
    plain = only(tmp_path / f"a{kind}", data)
    packed = only(tmp_path / f"a{kind}{suffix}", compressed(suffix, data))
    assert isinstance(plain, RawDocument)
    assert isinstance(packed, RawDocument)
    assert plain.content == packed.content


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_members_or_frames_are_one_stream(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    documents = [{"content": f"{n} " * 20_000} for n in range(9)]
    whole = lines(*documents)
    # Cut in the middle of lines, with an empty member between.
    parts = [whole[:100_000], b"", whole[100_000:]]
    path.write_bytes(b"".join(compressed(suffix, part) for part in parts))
    found = [item.content for item in read_file(path) if isinstance(item, RawDocument)]
    assert found == [each["content"] for each in documents]


def test_a_skippable_frame_of_zstd_is_skipped(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    frame = compressed(".zst", lines({"content": "T"}))
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(skipped + frame + skipped)
    (item,) = read_file(path)
    assert isinstance(item, RawDocument)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_stream_gives_what_is_whole_and_one_refusal(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    data = compressed(suffix, lines(*({"content": f"{n} {os.urandom(2000).hex()}"} for n in range(100))))
    for size in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        found = read_file(path)
        assert isinstance(found[-1], Refusal)
        assert found[-1].reason == Reason.TRUNCATED
        whole = [item.content for item in found[:-1] if isinstance(item, RawDocument)]
        assert len(whole) == len(found) - 1 > 20
        assert [str(content).split()[0] for content in whole] == [str(n) for n in range(len(whole))]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_or_wrongly_named_data_is_refused(tmp_path: Path, suffix: str) -> None:
    data = bytearray(compressed(suffix, os.urandom(1000)))
    data[5:30] = b"\xff" * 25
    assert reason(tmp_path / f"a.txt{suffix}", bytes(data)) == Reason.CORRUPT
    assert reason(tmp_path / f"b.txt{suffix}", b"no compression at all") == Reason.CORRUPT


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_document_over_the_limit_is_refused_and_the_next_line_is_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_DOCUMENT_BYTES", 100_000)
    data = lines({"content": "a" * 500_000}, {"content": "b"})
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compressed(suffix, data) if suffix else data)
    bomb, after = read_file(path)
    assert isinstance(bomb, Refusal)
    assert (bomb.reason, bomb.path) == (Reason.TOO_LARGE, f"{path}:1")
    assert isinstance(after, RawDocument)
    assert (after.content, after.line) == ("b", 2)
    packed = compressed(suffix, data) if suffix else data
    assert reason(tmp_path / f"a.txt{suffix}", packed) == Reason.TOO_LARGE


def test_a_file_of_exactly_the_first_read_is_whole(tmp_path: Path) -> None:
    for size in (65_535, 65_536, 65_537, 200_000):
        item = only(tmp_path / "a.txt", b"a" * size)
        assert isinstance(item, RawDocument)
        assert item.content == "a" * size


def test_a_file_that_has_gone_is_refused(tmp_path: Path) -> None:
    (item,) = read_file(tmp_path / "gone.json")
    assert isinstance(item, Refusal)
    assert item.reason == Reason.VANISHED


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that everyone may enter, and a process that is not root: root may read everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_file_that_may_not_be_read_is_refused(as_nobody: Path) -> None:
    path = as_nobody / "a.json"
    path.write_bytes(lines({"content": "T"}))
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65_534)
        (item,) = read_file(path)
    finally:
        os.seteuid(user)
    assert isinstance(item, Refusal)
    assert (item.reason, item.message) == (Reason.UNREADABLE, "Permission denied")


def test_a_folder_named_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    (item,) = read_file(tmp_path / "a.json")
    assert isinstance(item, Refusal)
    assert item.reason == Reason.UNREADABLE


def test_files_are_closed_when_the_reader_stops_early(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for suffix in ("", ".gz", ".zst"):
        path = tmp_path / f"a.jsonl{suffix}"
        data = lines(*({"content": str(n)} for n in range(10)))
        path.write_bytes(compressed(suffix, data) if suffix else data)
        found = read(FoundFile(str(path), "a"), lambda _: None)
        next(found)
        found.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
