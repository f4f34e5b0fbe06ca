"""What an estimate tells of disk and network, for a job of the size that this program is for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embedstream.commands.topics import _needed
from embedstream.costs import ModelShape
from embedstream.estimate_report import Estimate
from embedstream.sampling import Total
from embedstream.topic_rules import Topic, check_room

# 5 million documents, 200 GB of text that zstd makes a third of, 93.2 million passages of 1,024 floats.
PASSAGES = 93.2e6
ARCHIVE = Estimate(
    files=5_000_000,
    bytes=200 * 10**9,
    totals={
        name: Total(value)
        for name, value in {
            "documents": 5e6,
            "refused": 0,
            "text_bytes": 200e9,
            "packed": 66e9,
            "tokens": 45e9,
            "passages": PASSAGES,
        }.items()
    },
    sampled={"documents": 1000, "units": 100, "bytes": 40_000_000},
    unreadable=(),
    shape=ModelShape("bge-large", "bert", 24, 1024, 4096, 512, 1024),
    basis="a test",
    pods=4,
    costs=(),
    hosted=(),
    bought=(),
    prices_from="none",
    replication=3,
    record_bytes=600,
)


def test_the_vectors_of_the_archive_are_382_gigabytes_before_replication() -> None:
    assert ARCHIVE.disk["vectors"] == pytest.approx(382e9, rel=0.001)
    text = "\n".join(ARCHIVE.lines())
    assert "381.7 GB vectors" in text
    assert "with 3 copies 1.60 TB" in text


def test_the_network_of_a_pod_is_its_share_of_what_is_read_and_written() -> None:
    each = ARCHIVE.network_per_pod
    assert each["reads"] == pytest.approx(66e9 / 4)
    assert each["writes"] == pytest.approx((ARCHIVE.disk["vectors"] + ARCHIVE.disk["passages_text"]) / 4)
    assert "  each pod reads 16.5 GB and writes 116.6 GB" in list(ARCHIVE.lines())
    alone = replace(ARCHIVE, pods=1)
    assert alone.network_per_pod["reads"] == 4 * each["reads"]


def test_topics_check_takes_what_estimate_prints(tmp_path: Path) -> None:
    file = tmp_path / "estimate.json"
    file.write_text(json.dumps(ARCHIVE.to_json()))
    topics = {role: Topic(role, 64, 3, {}) for role in ("documents", "embeddings", "dead_letters")}
    (problem,) = check_room(topics, _needed(file), 500 * 10**9, 3)  # type: ignore[arg-type]
    assert "the job takes 1,597 GB with all copies, and 3 brokers have 1,500 GB free" in problem.message
    assert check_room(topics, _needed(file), 700 * 10**9, 3) == []  # type: ignore[arg-type]
