from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from producer.documents import RawDocument
from producer.refusals import Reason, Refusal
from producer.sources import read
from producer.walk import FoundFile


@pytest.mark.parametrize("suffix", [".json", ".txt", ".json.gz"])
def test_a_document_that_is_written_while_it_is_read_is_refused_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    old, new = (json.dumps({"content": word * 200_000}).encode() for word in ("old ", "new!"))
    path.write_bytes(gzip.compress(old) if suffix.endswith(".gz") else old)

    def on_bytes(count: int) -> None:
        if count and path.stat().st_mtime_ns != 7:
            with path.open("r+b") as file:  # in place, as an editor or rsync --inplace does
                file.write(new[:100] if not suffix.endswith(".gz") else b"")
            os.utime(path, ns=(7, 7))

    (item,) = read(FoundFile(str(path), path.name), on_bytes)
    assert isinstance(item, Refusal)
    assert (item.reason, item.path) == (Reason.CHANGED, str(path))


def test_lines_that_come_while_a_file_is_read_are_noticed_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "one"}\n{"content": "two"}\n')
    found = []
    for item in read(FoundFile(str(path), "a.jsonl"), lambda _: None):
        found.append(item)
        if len(found) == 1:
            with path.open("a") as file:
                file.write('{"content": "thr')
    assert [type(item) for item in found[:2]] == [RawDocument, RawDocument]
    assert isinstance(found[-1], Refusal)
    assert found[-1].reason == Reason.CHANGED


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"content": "{n} {"x" * 1000}"}}\n' for n in range(2000)))
    items = read(FoundFile(str(path), "a.jsonl"), lambda _: None)
    next(items)
    path.with_suffix(".new").write_text('{"content": "other"}\n')
    path.with_suffix(".new").rename(path)
    rest = list(items)
    assert len(rest) == 1999
    assert all(isinstance(item, RawDocument) for item in rest)


def test_a_file_that_vanishes_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "one"}\n' * 50_000)
    items = read(FoundFile(str(path), "a.jsonl"), lambda _: None)
    next(items)
    path.unlink()
    assert sum(isinstance(item, RawDocument) for item in items) == 49_999
