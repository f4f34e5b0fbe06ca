"""The consumer on a broker, with the hash of a passage for its vector: everything but the model is real."""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from embedstream.kafka import make_admin
from tests.brokers import free_ports, on_apache
from tests.cli import run_cli
from tests.consuming import committed, documents, outcome, send
from tests.hash_encoder import DIM
from tests.kafka import Topics, read_all, wait_until
from tests.oracle import decode
from tests.unit.consumer.items import a_value

Start = Callable[..., subprocess.Popen[bytes]]


def verified(topics: Topics) -> bool:
    done = run_cli("verify", *topics.flags, "--group", topics.documents, "--json")
    print(done.stdout, done.stderr)
    return done.returncode == 0


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_every_document_is_embedded_once_and_the_lag_reaches_zero(
    topics: Topics, hash_daemon: Start, delivery: str
) -> None:
    send(topics, documents(40))
    assert hash_daemon("--until-drained", "--delivery", delivery).wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == 40
    assert found.dead_letters == 0
    assert found.embeddings > 80
    assert sum(committed(topics).values()) == 40
    assert verified(topics)


def test_what_cannot_be_read_becomes_a_dead_letter_and_its_neighbours_are_embedded(
    topics: Topics, hash_daemon: Start
) -> None:
    good = documents(4)
    blank = a_value("  \n ")
    bad: list[bytes | None] = [
        b"this is no Avro",
        b"\xc3\x01" + bytes(8) + b"what",
        (good[0] or b"")[:40],
        b"",
        blank,
    ]
    send(topics, [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2], bad[4], None, good[3]])
    assert hash_daemon("--until-drained").wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert (found.inputs, found.dead_letters, found.deletions) == (10, 5, 1)
    letters = read_all(topics.bootstrap, topics.dead_letters)
    reasons = {}
    for letter in letters:
        headers = dict(letter.headers() or [])
        reasons[letter.value()] = headers["error.class"]
        assert headers["error.message"]
        assert headers["model.fingerprint"] == b"hash"
    assert reasons == {
        bad[0]: b"not_avro",
        bad[1]: b"unknown_schema",
        bad[2]: b"corrupt",
        bad[3]: b"not_avro",
        blank: b"empty",
    }
    assert verified(topics)


def test_unusual_text_is_embedded_whole(topics: Topics, hash_daemon: Start) -> None:
    texts = [
        "a" * 100_000,
        "naïve café 👩‍👩‍👧‍👦 emoji",
        "مرحبا بالعالم. " * 50,
        "漢字かな交じり文。" * 100,
        "nul \0 inside",
        "one",
        ("word " * 60_000).strip(),
    ]
    values: list[bytes | None] = [a_value(text, n) for n, text in enumerate(texts)]
    send(topics, values)
    assert hash_daemon("--until-drained").wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.dead_letters == 0
    parts: dict[str, list[tuple[int, int, str]]] = {}
    for message in read_all(topics.bootstrap, topics.embeddings):
        record = decode("embedding", message.value() or b"")
        assert len(record["vector"]) == DIM
        parts.setdefault(record["document_id"], []).append(
            (record["start_char"], record["end_char"], record["text"])
        )
    rebuilt = {key: "".join(text for _, _, text in sorted(each)) for key, each in parts.items()}
    assert sorted(rebuilt.values()) == sorted(texts)


@on_apache
def test_after_kill_9_a_restart_goes_on_where_the_offsets_are(topics: Topics, hash_daemon: Start) -> None:
    send(topics, documents(300))
    flags = ("--until-drained", "--window-bytes", "8000")
    first = hash_daemon(*flags, seconds=0.05)
    wait_until(lambda: sum(committed(topics).values()) >= 60, 60, "the first daemon commits")
    first.kill()
    first.wait()
    before = sum(committed(topics).values())
    assert before < 300, "killed too late to show anything"
    assert hash_daemon(*flags).wait(90) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == 300
    assert verified(topics)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_delivers_what_is_encoded_and_leaves_with_zero(
    topics: Topics, hash_daemon: Start, number: signal.Signals
) -> None:
    send(topics, documents(200))
    daemon = hash_daemon("--window-bytes", "8000", seconds=0.05)
    wait_until(lambda: sum(committed(topics).values()) >= 30, 60, "the daemon commits")
    daemon.send_signal(number)
    assert daemon.wait(60) == 0
    assert sum(committed(topics).values()) < 200, "stopped too late to show anything"
    found = outcome(topics)
    assert found.is_exactly_once, found


def test_an_empty_topic_is_drained_at_once(topics: Topics, hash_daemon: Start) -> None:
    assert hash_daemon("--until-drained").wait(60) == 0


@pytest.mark.slow
def test_a_drained_topic_is_drained_at_once_the_second_time(topics: Topics, hash_daemon: Start) -> None:
    send(topics, documents(5))
    assert hash_daemon("--until-drained").wait(60) == 0
    count = len(read_all(topics.bootstrap, topics.embeddings))
    assert hash_daemon("--until-drained").wait(60) == 0
    assert len(read_all(topics.bootstrap, topics.embeddings)) == count


def test_another_model_is_refused_for_the_group_and_for_the_topic(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    send(topics, documents(6))
    assert hash_daemon("--until-drained").wait(60) == 0
    count = len(read_all(topics.bootstrap, topics.embeddings))
    send(topics, documents(6))
    assert hash_daemon("--until-drained", fingerprint="other").wait(60) == 78
    assert "belongs to a model with fingerprint hash" in (tmp_path / "daemon-1.log").read_text()
    for dim in (12, 16):
        assert hash_daemon("--until-drained", "--group", "new", fingerprint="other", dim=dim).wait(60) == 78
    assert len(read_all(topics.bootstrap, topics.embeddings)) == count
    assert len(read_all(topics.bootstrap, topics.dead_letters)) == 0


@on_apache
def test_forgotten_offsets_are_refused_and_recovered_from_the_output(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    send(topics, documents(30))
    assert hash_daemon("--until-drained").wait(60) == 0
    count = len(read_all(topics.bootstrap, topics.embeddings))
    admin = make_admin(topics.kafka)

    def forgotten() -> bool:
        # The group must be empty, and the broker may take a moment to see that.
        try:
            admin.delete_consumer_groups([topics.documents])[topics.documents].result()
        except Exception:
            return False
        return True

    wait_until(forgotten, 30, "the group is deleted")
    assert hash_daemon("--until-drained").wait(60) == 78
    log = (tmp_path / "daemon-1.log").read_text()
    assert "--recover-offsets" in log
    assert "Traceback" not in log
    send(topics, documents(3))
    assert hash_daemon("--until-drained", "--recover-offsets").wait(60) == 0
    found = outcome(topics)
    assert found.is_exactly_once, found
    assert found.inputs == 33
    assert found.embeddings > count


def test_metrics_tell_what_the_topics_hold(topics: Topics, hash_daemon: Start) -> None:
    send(topics, [*documents(20), b"no Avro", None])
    (port,) = free_ports(1)
    daemon = hash_daemon("--metrics-port", str(port))
    wait_until(lambda: sum(committed(topics).values()) == 22, 60, "everything is committed")

    def scraped() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    wait_until(
        lambda: sum(v for k, v in scraped().items() if "records_total" in k and '"deliver"' in k) == 22,
        10,
        "all is counted",
    )
    found = scraped()
    embeddings = read_all(topics.bootstrap, topics.embeddings)
    vectors = [decode("embedding", each.value()) for each in embeddings if each.value() is not None]  # type: ignore[arg-type]
    assert found["embedstream_passages_total"] == len(vectors)
    assert found["embedstream_tokens_total"] == sum(each["token_count"] for each in vectors)
    assert found['embedstream_records_total{result="ok",stage="deliver"}'] == 20
    assert found['embedstream_records_total{result="deletion",stage="deliver"}'] == 1
    assert found['embedstream_dead_letters_total{reason="not_avro"}'] == 1
    assert found['embedstream_transactions_total{result="committed"}'] >= 1
    assert found["embedstream_last_commit_timestamp_seconds"] == pytest.approx(time.time(), abs=120)
    assert 0 <= found["embedstream_padding_ratio"] < 1
    for stage in ("decode", "split", "encode", "deliver"):
        assert found[f'embedstream_stage_duration_seconds_count{{stage="{stage}"}}'] >= 1
    assert any(name.startswith("embedstream_model_info") and 'model="hash"' in name for name in found)
    daemon.terminate()
    assert daemon.wait(60) == 0
