from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstream.settings import ProducerSettings
from producer import parquet as module
from producer.documents import RawDocument, check
from producer.refusals import Reason, Refusal
from producer.source import ReadingRules
from producer.sources import is_known, read
from producer.walk import FoundFile


def read_all(path: Path, **settings: object) -> list[RawDocument | Refusal]:
    taken: list[int] = []
    rules = ReadingRules(ProducerSettings.model_validate(settings))
    file = FoundFile(str(path), path.name, path.stat().st_size)
    found = list(read(file, taken.append, rules))
    assert sum(taken) <= path.stat().st_size * 1.1 + 100_000
    return found


def documents(found: list[RawDocument | Refusal]) -> list[RawDocument]:
    assert all(isinstance(item, RawDocument) for item in found), found
    return [item for item in found if isinstance(item, RawDocument)]


def write(path: Path, columns: dict[str, object], **options: object) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_each_row_is_a_document_with_its_other_columns_as_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {
            "id": ["x", None],
            "content": ["Eins 😀", "Zwei"],
            "year": pa.array([1867, None], pa.int32()),
            "day": [datetime.date(1867, 9, 14), None],
            "at": [datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), None],
            "price": [decimal.Decimal("1.50"), None],
            "tags": [["a", "b"], []],
            "raw": [b"ab", None],
            "who": [{"name": "N", "born": datetime.date(1818, 5, 5)}, None],
        },
    )
    first, second = (check(each) for each in documents(read_all(path)))
    assert (first.id, first.content) == ("x", "Eins 😀")
    assert first.metadata == {
        "year": "1867",
        "day": "1867-09-14",
        "at": "2026-01-02T03:04:00+00:00",
        "price": "1.50",
        "tags": '["a", "b"]',
        "raw": "ab",
        "who": '{"name": "N", "born": "1818-05-05"}',
    }
    assert second.id == f"a.parquet#{second.content_hash}"
    assert second.metadata == {"tags": "[]"}


def test_columns_are_named_by_the_settings_and_others_are_not_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"body": ["T"], "key": ["k"], "title": ["N"], "content": ["not this"], "big": ["x" * 1_000_000]},
        compression="none",
    )
    taken: list[int] = []
    settings = ProducerSettings(content_field="body", id_field="key", metadata_field=("title", "nope"))
    file = FoundFile(str(path), "a.parquet", path.stat().st_size)
    notice, item = read(file, taken.append, ReadingRules(settings))
    assert isinstance(notice, Refusal)
    assert (notice.reason, notice.reason.is_notice) == (Reason.NO_METADATA_COLUMN, True)
    assert "`nope`" in notice.message
    assert isinstance(item, RawDocument)
    document = check(item, settings.id_field, settings.metadata_field)
    assert (document.id, document.content, document.metadata) == ("k", "T", {"title": "N"})
    assert sum(taken) < 100_000


@pytest.mark.parametrize("settings", [{"content_field": "text"}, {"id_field": "nr"}])
def test_a_file_without_a_named_column_is_refused_and_says_what_it_has(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    path = write(tmp_path / "a.parquet", {"content": ["a"], "title": ["T"]})
    (item,) = read_all(path, **settings)
    assert isinstance(item, Refusal)
    assert item.reason == Reason.NO_COLUMN
    assert "`content`, `title`" in item.message


def test_rows_without_text_are_refused_alone_with_their_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"content": ["a", None, "", "b"]})
    found = documents(read_all(path))
    assert [item.where for item in found] == [f"{path}:{n}" for n in range(1, 5)]
    reasons = []
    for item in found:
        try:
            check(item)
        except Exception as error:
            reasons.append(getattr(error, "reason", None))
    assert reasons == [Reason.CONTENT_NOT_TEXT, Reason.EMPTY]


def test_a_value_that_python_has_no_type_for_is_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {
            "content": ["a", "b"],
            "at": pa.array([1_500_000_000_000_000_001, 1_500_000_000_000_000_000], pa.timestamp("ns")),
            "day": pa.array([2**30, 0], pa.date32()),
            "took": pa.array([1, 2000], pa.duration("ns")),
        },
    )
    first, second = (check(each).metadata for each in documents(read_all(path)))
    assert first["at"] == "2017-07-14T02:40:00.000000001"
    assert second["at"] == "2017-07-14T02:40:00"
    assert (second["day"], second["took"]) == ("1970-01-01", "0:00:00.000002")


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
@pytest.mark.parametrize("where", ["content", "title"])
def test_a_row_that_is_no_utf8_is_refused_alone(tmp_path: Path, kind: pa.DataType, where: str) -> None:
    # Arrow believes what it is told of bytes that are there already.
    offsets, data = (
        pa.py_buffer(each) for each in (b"\0\0\0\0\4\0\0\0\x08\0\0\0\x09\0\0\0", b"fine\xe9bad!")
    )
    bad = pa.Array.from_buffers(kind, 3, [None, offsets, data])
    columns = {"content": ["a", "b", "c"], "title": ["T", "U", "V"]} | {where: bad}
    found = read_all(write(tmp_path / "a.parquet", columns))
    refusals = [(item.reason, item.path) for item in found if isinstance(item, Refusal)]
    if kind == pa.binary() and where == "title":
        assert refusals == []  # metadata may be anything
        assert check(documents(found)[1]).metadata["title"] == "\\xe9bad"
    else:
        assert refusals == [(Reason.NOT_UTF8, f"{tmp_path}/a.parquet:2")]
    fine = check(next(item for item in found if isinstance(item, RawDocument)))
    assert (fine.content, fine.metadata["title"])[where == "title"] == "fine"


@pytest.mark.parametrize("damage", ["cut", "head", "footer", "middle", "empty", "text"])
def test_a_damaged_file_is_refused_and_nothing_crashes(tmp_path: Path, damage: str) -> None:
    import os

    path = write(tmp_path / "a.parquet", {"content": [os.urandom(500).hex() for _ in range(500)]})
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data = {
        "cut": data[:half],
        "head": data[100:],
        "footer": data[:-60] + b"\xff" * 52 + data[-8:],
        "middle": data[:half] + b"\xff" * 5000 + data[half + 5000 :],
        "empty": bytearray(),
        "text": bytearray(b"no Parquet at all"),
    }[damage]
    path.write_bytes(data)
    found = read_all(path)
    refusals = [item for item in found if isinstance(item, Refusal)]
    if damage == "middle" and not refusals:
        pytest.skip("the damage hit the text alone")
    assert [r.reason for r in refusals] == [Reason.CORRUPT]
    assert "\n" not in refusals[0].message


def test_a_large_row_group_is_read_in_little_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
from producer.sources import read
from producer.walk import FoundFile
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in read(FoundFile(sys.argv[1], "a.parquet", 1 << 40), lambda _: None))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    rows = 2_000
    import os

    path = tmp_path / "a.parquet"
    texts = [os.urandom(20_000).hex() for _ in range(rows)]
    write(path, {"content": texts}, row_group_size=rows, compression="none", use_dictionary=False)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == rows
    assert grown < 40  # MiB, of a row group of 80


def test_a_dictionary_that_multiplies_is_stopped_before_it_fills_the_memory(tmp_path: Path) -> None:
    text = "".join(chr(97 + n * n % 26) for n in range(3_000_000))
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array([text]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"content": repeated}), path, store_schema=False)
    assert path.stat().st_size < 1_000_000
    *found, last = read_all(path)
    assert isinstance(last, Refusal)
    assert last.reason == Reason.EXPANDS_TOO_MUCH
    assert "max_expansion" in last.message
    assert len(found) < 200
    rows = module._rows_at_once(pq.ParquetFile(path).metadata.row_group(0))
    assert rows * len(text) <= 256 * 1024 * 1024


def test_without_the_extra_each_file_says_which_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", {"content": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (item,) = read_all(path)
    assert isinstance(item, Refusal)
    assert item.reason == Reason.EXTRA_MISSING
    assert "embedstream[parquet]" in item.message


def test_parquet_is_known_but_not_within_another_compression() -> None:
    assert is_known("a.snappy.parquet")
    assert not is_known("a.parquet.gz")


def test_numbers_as_json_stay_numbers_in_the_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"content": ["a"], "n": [[1, 2.5]], "t": [True]})
    (document,) = documents(read_all(path))
    assert json.loads(json.dumps(document.fields["n"])) == [1, 2.5]
    assert check(document).metadata == {"n": "[1.0, 2.5]", "t": "true"}
