"""Corpora in S3, against a local server that speaks its protocol."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from embedstream.errors import ConfigError, ServiceUnavailableError, UsageError
from embedstream.settings import ProducerSettings
from producer import s3
from producer.corpus import open_corpus
from producer.documents import RawDocument, check
from producer.refusals import Reason, Refusal
from producer.sources import SOURCES, is_known, read
from producer.walk import Batch, check_paths, walk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, and the variables by which a user would name its server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    made = boto3.resource("s3").Bucket("corpus")
    made.create()
    yield made
    made.objects.all().delete()
    made.delete()
    s3fs.S3FileSystem.clear_instance_cache()


def put(bucket: Any, key: str, data: bytes | str) -> None:
    bucket.put_object(Key=key, Body=data.encode() if isinstance(data, str) else data)


def batches(uri: str) -> tuple[list[Batch], list[Refusal]]:
    refusals: list[Refusal] = []
    return list(walk([uri], is_known, refusals.append)), refusals


def items(uri: str, **settings: object) -> list[RawDocument | Refusal]:
    corpus = open_corpus([uri], ProducerSettings.model_validate(settings))
    refusals: list[RawDocument | Refusal] = []
    for batch in corpus.batches(refusals.append):
        for file in batch.files:
            refusals.extend(read(file, lambda _: None, corpus.rules))
    return refusals


def test_every_kind_of_file_is_read_from_a_bucket(bucket: Any) -> None:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"content": ["p1", "p2"], "title": ["T", "U"]}), parquet)
    put(bucket, "c/shard_000_010/a.json", '{"content": "a", "title": "T"}')
    put(bucket, "c/lines.jsonl.gz", gzip.compress(b'{"content": "l1"}\n{"content": "l2"}\n'))
    put(bucket, "c/p.parquet", parquet.getvalue())
    put(bucket, "c/t.txt", "text " * 300_000)
    put(bucket, "other/x.json", '{"content": "not below c"}')
    documents = [check(item) for item in items("s3://corpus/c") if isinstance(item, RawDocument)]
    assert {d.id.partition("#")[0]: d.content[:9] for d in documents} == {
        "shard_000_010/a.json": "a",
        "lines.jsonl.gz": "l2",
        "p.parquet": "p2",
        "t.txt": "text text",
    }
    assert len(documents) == 6
    assert documents[0].source.startswith("s3://corpus/c/")
    assert max(d.content_bytes for d in documents) == 1_500_000


def test_a_prefix_and_an_object_are_told_apart_and_batches_are_of_one_folder(bucket: Any) -> None:
    for key in (
        "c/a.json",
        "c/ab.json",
        "c/d/e.json",
        "c/d/f.json",
        "c/.hidden/g.json",
        "c/page.html",
        "c/z/",
    ):
        put(bucket, key, '{"content": "x"}' if not key.endswith("/") else "")
    found, refusals = batches("s3://corpus/c/")
    assert [(b.root, b.folder, [f.relative for f in b.files]) for b in found] == [
        ("s3://corpus/c/", "", ["a.json", "ab.json"]),
        ("s3://corpus/c/", "d/", ["d/e.json", "d/f.json"]),
    ]
    assert sorted(r.reason for r in refusals) == [Reason.HIDDEN, Reason.UNKNOWN_SUFFIX]
    ((alone,),) = ([f.relative for f in b.files] for b in batches("s3://corpus/c/a.json")[0])
    assert alone == "a.json"
    assert len(batches("s3://corpus")[0]) == 2


def test_many_objects_come_page_by_page(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 10)
    for n in range(35):
        put(bucket, f"c/{n:05}.json", '{"content": "x"}')
    found, _ = batches("s3://corpus/c")
    assert [len(batch.files) for batch in found] == [10, 10, 10, 5]
    assert len({file.path for batch in found for file in batch.files}) == 35


def test_an_object_that_is_replaced_has_another_time_even_within_a_second(bucket: Any) -> None:
    put(bucket, "c/a.json", '{"content": "old"}')
    ((before,),) = (batch.files for batch in batches("s3://corpus/c")[0])
    put(bucket, "c/a.json", '{"content": "new"}')
    ((after,),) = (batch.files for batch in batches("s3://corpus/c")[0])
    assert before.size == after.size
    assert before.mtime_ns != after.mtime_ns


def test_the_archives_layout_finds_its_metadata_in_s3_too(bucket: Any) -> None:
    for n in range(30):
        put(bucket, f"c/markdown/doc-{n}.md", f"---\ntitle: a: b\n---\n\nBody {n}.")
        put(bucket, f"c/metadata/doc-{n}.json", json.dumps({"title": f"T{n}"}))
    put(bucket, "c/metadata/alone.json", '{"content": "x"}')
    found = items("s3://corpus/c")
    documents = {check(i).id: check(i) for i in found if isinstance(i, RawDocument)}
    assert len(documents) == 31
    assert documents["markdown/doc-7.md"].metadata == {"title": "T7"}
    assert documents["markdown/doc-7.md"].content == "Body 7."
    assert [i.reason for i in found if isinstance(i, Refusal)] == [Reason.SIDECAR] * 30


def test_texts_at_the_top_of_a_bucket_have_their_metadata_below_it(bucket: Any) -> None:
    put(bucket, "a.md", "Body.")
    put(bucket, "metadata/a.json", '{"title": "T"}')
    put(bucket, "metadata/b.json", '{"content": "A document."}')
    found = items("s3://corpus")
    assert [check(i).metadata for i in found if isinstance(i, RawDocument)] == [{"title": "T"}, {}]
    assert [i.reason for i in found if isinstance(i, Refusal)] == [Reason.SIDECAR]


def test_an_object_that_changes_or_goes_while_it_is_read_is_refused(bucket: Any) -> None:
    line = json.dumps({"content": "x" * 1000}) + "\n"
    put(bucket, "c/a.jsonl", line * 12_000)
    ((file,),) = (batch.files for batch in batches("s3://corpus/c")[0])
    reading = read(file, lambda _: None)
    assert isinstance(next(reading), RawDocument)
    put(bucket, "c/a.jsonl", line * 11_000)
    *_, last = reading
    assert isinstance(last, Refusal)
    assert last.path == "s3://corpus/c/a.jsonl"
    assert last.reason == Reason.CHANGED
    bucket.objects.all().delete()
    (gone,) = read(file, lambda _: None)
    assert isinstance(gone, Refusal)
    assert gone.reason == Reason.VANISHED


def test_what_is_not_there_or_not_allowed_is_one_line(bucket: Any) -> None:
    for uri, told in (
        ("s3://no-such-bucket/x", "no-such-bucket"),
        ("s3://corpus/nothing", "nothing at"),
        ("s3://", "no bucket"),
    ):
        with pytest.raises(UsageError, match=told) as caught:
            check_paths([uri], is_known, SOURCES)
        assert "\n" not in str(caught.value)


def test_an_endpoint_that_is_down_and_missing_credentials_are_one_line(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ServiceUnavailableError, match="AWS_ENDPOINT_URL"):
        check_paths(["s3://corpus/c"], is_known, SOURCES)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        check_paths(["s3://corpus/c"], is_known, SOURCES)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"embedstream\[s3\]"):
        s3.check("s3://corpus/c")
