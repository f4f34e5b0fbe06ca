from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from embedstream.settings import ProducerSettings
from producer import compression, source
from producer.documents import RawDocument
from producer.refusals import Reason, Refusal
from producer.source import ReadingRules
from producer.sources import read
from producer.walk import FoundFile


def read_with(path: Path, max_expansion: int = 200) -> list[RawDocument | Refusal]:
    rules = ReadingRules(ProducerSettings(max_expansion=max_expansion))
    return list(read(FoundFile(str(path), path.name), lambda _: None, rules))


def packed(suffix: str, data: bytes) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else zstandard.ZstdCompressor(level=3).compress(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
def test_a_bomb_is_stopped_early_in_little_memory(
    tmp_path: Path, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "EXPANSION_GRACE_BYTES", 1_000_000)
    monkeypatch.setattr(source, "MAX_DOCUMENT_BYTES", 8_000_000)
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(packed(suffix, b" " * 150_000_000))
    tracemalloc.start()
    (item,) = read_with(path, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(item, Refusal)
    assert item.reason == Reason.EXPANDS_TOO_MUCH
    assert "producer.max_expansion" in item.message
    assert peak < 130_000_000


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_line_of_a_bomb_before_the_limit_is_still_a_document(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "EXPANSION_GRACE_BYTES", 4_000_000)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(suffix, b'{"content": "first"}\n' + b" " * 60_000_000))
    first, last = read_with(path)
    assert isinstance(first, RawDocument)
    assert isinstance(last, Refusal)
    assert last.reason == Reason.EXPANDS_TOO_MUCH
    assert [type(item) for item in read_with(path, 1_000_000)] == [RawDocument]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_small_file_may_expand_as_much_as_it_likes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(packed(suffix, b"a" * 20_000_000))
    (item,) = read_with(path, 2)
    assert isinstance(item, RawDocument)
