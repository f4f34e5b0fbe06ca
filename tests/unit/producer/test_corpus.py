from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from embedstream.errors import UsageError
from embedstream.settings import ProducerSettings
from producer.corpus import Corpus, open_corpus
from producer.documents import RawDocument, check
from producer.refusals import Refusal
from producer.sources import read


def write_corpus(root: Path) -> None:
    (root / "shard").mkdir()
    for n in range(200):
        (root / "shard" / f"{n}.json").write_text(json.dumps({"content": f"{n} " * 50}))
    lines = "".join(json.dumps({"content": f"{n} " * 50}) + "\n\n" for n in range(300))
    (root / "a.jsonl").write_text(lines)
    (root / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def ids(corpus: Corpus) -> set[str]:
    found = set()
    for batch in corpus.batches(lambda _: None):
        for file in batch.files:
            for item in read(file, lambda _: None, corpus.rules):
                assert isinstance(item, RawDocument)
                found.add(check(item).id)
    return found


def test_a_limit_takes_exactly_so_many_documents_from_all_over_the_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    whole = ids(open_corpus([tmp_path], ProducerSettings()))
    assert len(whole) == 800
    few = ids(open_corpus([tmp_path], ProducerSettings(limit=100)))
    more = ids(open_corpus([tmp_path], ProducerSettings(limit=200)))
    assert (len(few), len(more)) == (100, 200)
    assert few < more < whole
    by_kind = [sum(name.startswith(start) for name in few) for start in ("shard/", "a.jsonl", "b.jsonl.gz")]
    assert min(by_kind) > 10
    assert ids(open_corpus([tmp_path], ProducerSettings(limit=9999))) == whole


def test_a_sample_weighs_what_is_asked_for(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    settings = ProducerSettings.model_validate({"sample": "20kB", "include": ["*.json", "a.jsonl"]})
    corpus = open_corpus([tmp_path], settings)
    taken = ids(corpus)
    assert taken == ids(open_corpus([tmp_path], settings))
    # 500 documents of about 190 bytes each.
    assert 80 < len(taken) < 130
    assert not corpus.is_whole


def test_sample_and_limit_together_take_the_smaller(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    settings = ProducerSettings.model_validate({"sample": "20kB", "limit": 7})
    assert len(ids(open_corpus([tmp_path], settings))) == 7


def test_only_a_corpus_without_filters_sample_and_limit_is_whole(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    assert open_corpus([tmp_path], ProducerSettings()).is_whole
    for more in ({"include": "*.json"}, {"exclude": "x"}, {"limit": 5}, {"sample": 5000}):
        assert not open_corpus([tmp_path], ProducerSettings.model_validate(more)).is_whole


def test_a_truncated_file_does_not_end_the_choice_of_a_sample(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    data = (tmp_path / "b.jsonl.gz").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(data[: len(data) // 2])
    corpus = open_corpus([tmp_path], ProducerSettings(limit=100))
    items = [
        item
        for batch in corpus.batches(lambda _: None)
        for file in batch.files
        for item in read(file, lambda _: None, corpus.rules)
    ]
    assert sum(isinstance(item, RawDocument) for item in items) == 100
    assert [item.reason for item in items if isinstance(item, Refusal)] == ["truncated"]


def test_a_relative_path_finds_the_metadata_beside_it_and_names_files_by_their_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("markdown/a.md", "Body."), ("metadata/a.json", '{"title": "T"}')):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    for folder, given in (
        (tmp_path, "markdown"),
        (tmp_path / "markdown", "."),
        (tmp_path / "metadata", "../markdown/"),
    ):
        monkeypatch.chdir(folder)
        corpus = open_corpus([given], ProducerSettings())
        (file,) = (file for batch in corpus.batches(lambda _: None) for file in batch.files)
        (item,) = read(file, lambda _: None, corpus.rules)
        assert isinstance(item, RawDocument)
        assert (item.source, item.relative) == (str(tmp_path / "markdown" / "a.md"), "a.md")
        assert item.fields == {"title": "T"}


def test_a_path_that_is_named_twice_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    corpus = open_corpus([".", tmp_path, f"{tmp_path}/", "shard/.."], ProducerSettings())
    assert corpus.paths == (str(tmp_path),)


def test_a_path_that_does_not_exist_is_said_before_the_walk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone"):
        open_corpus([tmp_path / "gone"], ProducerSettings(limit=1))
