from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embedstream.bench.measure import Encoding, Tokenising
from embedstream.bench.report import Bench, record
from embedstream.bench.sample import Sample, read_sample
from embedstream.bench.through_kafka import KafkaRun
from embedstream.costs import ModelShape
from embedstream.errors import ConfigError, UsageError

LARGE = ModelShape("bge-large", "bert", 24, 1024, 4096, 512, 1024)
BENCH = Bench(
    machine={"device": "RTX 4090", "cores": "8 cores"},
    sample=Sample("a sample", ("text",), 400),
    model={"name": "a-model", "precision": "fp16", "attention": "varlen"},
    token_budget=16_384,
    shape=LARGE,
    peak=165e12,
    tokenising=Tokenising(tokens=100, passages=2, bytes=400, seconds=0.5),
    encoding=Encoding(lengths=(512,) * 4, batches=1, padding=0.0, seconds=0.01),
    kafka=None,
    kafka_missing="no broker answers at 127.0.0.1:1",
)


def test_a_model_of_no_known_shape_has_no_share_of_the_peak() -> None:
    assert replace(BENCH, shape=None).share_of_peak is None


def test_the_share_of_the_peak_counts_no_padding() -> None:
    share = 4 * 512 * LARGE.flop_per_token(512) / 0.01 / 165e12
    assert BENCH.share_of_peak == pytest.approx(share)
    padded = replace(BENCH, encoding=replace(BENCH.encoding, padding=0.5))
    assert padded.share_of_peak == pytest.approx(share)


def test_costs_rest_on_the_slower_of_encoding_and_kafka_to_kafka() -> None:
    assert BENCH.tokens_per_second == pytest.approx(204_800)
    slower = replace(BENCH, kafka=KafkaRun(1, 4, 2048, 0.02), price_per_hour=0.36)
    assert slower.tokens_per_second == pytest.approx(102_400)
    assert slower.costs["dollars_per_million_tokens"] == pytest.approx(1e6 / 102_400 * 1e-4)


def test_a_corpus_given_in_bytes_is_reckoned_by_the_samples_tokens() -> None:
    costs = replace(BENCH, price_per_hour=1.0).with_corpus_bytes(4e9).costs
    assert costs["corpus_tokens"] == pytest.approx(1e9)
    assert costs["corpus_hours"] == pytest.approx(1e9 / 204_800 / 3600)
    assert costs["corpus_dollars"] == pytest.approx(costs["corpus_hours"])
    assert "corpus_dollars" not in BENCH.with_corpus_bytes(4e9).costs


def test_the_report_says_why_kafka_was_not_measured_and_is_json() -> None:
    assert json.loads(json.dumps(BENCH.to_json()))["kafka_missing"] == BENCH.kafka_missing
    assert "not measured: no broker" in dict(BENCH.rows())["Kafka to Kafka"]


def test_a_record_is_added_to_others_and_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    path.write_text(json.dumps({"about": "speeds", "speeds": [{"gpu": "L4", "architecture": "x"}]}))
    record(BENCH, path)
    record(replace(BENCH, encoding=replace(BENCH.encoding, lengths=(128,) * 4)), path)
    found = json.loads(path.read_text())
    assert found["about"] == "speeds"
    assert [each["gpu"] for each in found["speeds"]] == ["L4", "RTX 4090"]
    entry = found["speeds"][1]
    assert entry["architecture"] == "bert-24x1024x4096"
    assert entry["measured"] is True
    assert set(entry["tokens_per_second"]) == {"512", "128"}


def test_a_record_that_is_no_file_of_speeds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "speeds.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match="--record"):
        record(BENCH, path)
    assert path.read_text() == "[]"


def test_a_sample_holds_the_texts_that_produce_would_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Première.")
    (tmp_path / "b.json").write_text(json.dumps({"content": "Zwei."}))
    (tmp_path / "broken.json").write_text("{")
    sample = read_sample(tmp_path)
    assert set(sample.texts) == {"Première.", "Zwei."}
    assert sample.bytes == 15


def test_a_sample_without_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(UsageError, match=r"--sample .* holds no text"):
        read_sample(tmp_path)


def test_the_built_in_sample_is_there() -> None:
    assert read_sample(None).bytes > 300_000
