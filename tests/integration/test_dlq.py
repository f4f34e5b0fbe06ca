"""Dead letters listed, shown and sent back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from embedstream.broker import ends_with_parent
from embedstream.dead_letters import Filter, parse_since, read_letter, read_letters, summarize
from embedstream.errors import ConfigError, FencedError, UsageError
from embedstream.kafka import make_admin, make_producer
from embedstream.retry import _Transactions, read_marks, retry
from embedstream.topic_reader import message_headers
from schemas.dead_letter import DeadLetter, Reason
from schemas.headers import read_headers
from schemas.records import Document, Segment, SourcePosition
from schemas.wire import encode_document
from tests.brokers import BrokerHandle
from tests.cli import clean_environment, run_cli, start_cli
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.oracle import check_exactly_once, decode
from tests.outputs import newest_rows

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def dead(embedded_broker: BrokerHandle) -> Topics:
    """Topics with six dead letters: four `empty`, two `too_large`, one of these without its value."""
    topics = make_topics(embedded_broker.bootstrap)
    producer = make_producer(topics.kafka)
    for number in range(6):
        reason = Reason.EMPTY if number < 4 else Reason.TOO_LARGE
        bury(topics, producer, number, reason, omitted=number == 5)
    assert producer.flush(30) == 0
    return topics


def headers_of(topics: Topics, number: int, reason: Reason) -> list[Any]:
    letter = DeadLetter(
        error_class=reason,
        error_message=f"number {number}",
        source=SourcePosition(topic=topics.documents, partition=number % 3, offset=100 + number),
        model="test",
        model_fingerprint="f00d",
        attempts=1 + number,
    )
    return [*letter.to_headers()]


def bury(topics: Topics, producer: Any, number: int, reason: Reason, *, omitted: bool = False) -> None:
    headers = headers_of(topics, number, reason)
    if omitted:
        headers.append(("value.omitted.bytes", b"5000000"))
    value = None if omitted else f"value {number}".encode()
    producer.produce(topics.dead_letters, value, f"key {number}".encode(), number % 3, headers=headers)


def sent_back(topics: Topics) -> dict[str, tuple[Any, ...]]:
    """What lies in the documents topic, by `retry.of`; each once."""
    found = {}
    for message in read_all(topics.bootstrap, topics.documents):
        headers = {name: value.decode() for name, value in read_headers(message_headers(message)).items()}
        of = headers.pop("retry.of")
        assert of not in found, f"{of} was sent twice"
        found[of] = (message.partition(), message.key(), message.value(), headers)
    return found


def test_a_record_goes_back_as_it_came_and_only_once(dead: Topics) -> None:
    done = retry(dead.kafka, Filter())
    assert done.to_json() == {
        "sent": 5,
        "reasons": {"empty": 4, "too_large": 1},
        "already_sent": 0,
        "omitted": 1,
        "omitted_at": [f"{dead.documents}/2/105"],
        "unreadable": 0,
    }
    wanted = {
        f"{dead.documents}/{n % 3}/{100 + n}": (
            n % 3,
            f"key {n}".encode(),
            f"value {n}".encode(),
            {"attempts": str(1 + n)},
        )
        for n in range(5)
    }
    assert sent_back(dead) == wanted
    assert wanted.keys() <= read_marks(dead.kafka)
    again = retry(dead.kafka, Filter())
    assert (again.sent.total(), again.already, again.omitted) == (0, 5, 1)
    assert sent_back(dead) == wanted
    assert any("2/105" in line and "can't be sent back" in line for line in again.lines())


def test_two_dead_letters_of_one_record_send_it_once(dead: Topics) -> None:
    producer = make_producer(dead.kafka)
    bury(dead, producer, 1, Reason.ENCODE_FAILED)
    producer.produce(dead.dead_letters, b"no dead letter")
    assert producer.flush(30) == 0
    done = retry(dead.kafka, Filter())
    assert (done.sent.total(), done.already, done.unreadable) == (5, 1, 1)
    assert len(sent_back(dead)) == 5


def test_what_goes_back_never_deletes_a_document(broker: BrokerHandle) -> None:
    topics = make_topics(broker.bootstrap)
    producer = make_producer(topics.kafka)
    # A record may be empty, and is not null for it. A null one that nobody says was left out is no program's.
    for number, value in enumerate((b"", None)):
        headers = headers_of(topics, number, Reason.NOT_AVRO)
        producer.produce(topics.dead_letters, value, f"key {number}".encode(), number, headers=headers)
    assert producer.flush(30) == 0
    done = retry(topics.kafka, Filter())
    assert (done.sent.total(), done.omitted) == (1, 1)
    [(_, key, sent, _)] = sent_back(topics).values()
    assert (key, sent) == (b"key 0", b"")


def test_only_what_the_filters_name_goes_back(dead: Topics) -> None:
    assert retry(dead.kafka, Filter(since=parse_since("2100-01-01"))).sent.total() == 0
    assert retry(dead.kafka, Filter(reason=Reason.TOO_LARGE, since=parse_since("1h"))).sent.total() == 1
    assert list(sent_back(dead)) == [f"{dead.documents}/1/104"]


def test_the_list_is_grouped_by_reason_and_one_is_shown_in_full(dead: Topics) -> None:
    retry(dead.kafka, Filter(reason=Reason.TOO_LARGE))
    summary = summarize(read_letters(dead.kafka, Filter()), read_marks(dead.kafka))
    assert {reason: (group["count"], group["retried"]) for reason, group in summary.groups.items()} == {
        "empty": (4, 0),
        "too_large": (2, 1),
    }
    assert any("4  empty" in line for line in summary.lines())
    shown = read_letter(dead.kafka, f"{dead.dead_letters}/1/0").to_json()
    assert shown["source"] == f"{dead.documents}/1/101"
    assert (shown["reason"], shown["message"], shown["attempts"]) == ("empty", "number 1", 2)
    assert shown["value"] == b"value 1".hex(" ")
    for wrong in ("nothing", "1", "other/1/0", "1/99", "9/0"):
        with pytest.raises(UsageError):
            read_letter(dead.kafka, wrong)


def test_a_dead_letter_whose_topic_is_gone_stops_the_retry_before_anything_is_sent(dead: Topics) -> None:
    admin = make_admin(dead.kafka)
    other = make_topics(dead.bootstrap)
    producer = make_producer(dead.kafka)
    letter = DeadLetter(
        error_class=Reason.EMPTY,
        error_message="x",
        source=SourcePosition(topic=other.documents, partition=0, offset=0),
        model="test",
        model_fingerprint="f00d",
    )
    producer.produce(dead.dead_letters, b"x", b"x", 2, headers=[*letter.to_headers()])
    assert producer.flush(30) == 0
    admin.delete_topics([other.documents])[other.documents].result()
    told = f"1 dead letters came from, '{other.documents}' does not exist: .* leave them out with --reason"
    with pytest.raises(ConfigError, match=told):
        retry(dead.kafka, Filter())
    assert sent_back(dead) == {}


@pytest.mark.parametrize("text", ["yesterday", "5", "5w", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_since(text)


@pytest.mark.slow
def test_a_record_that_its_topic_takes_no_more_is_told_and_nothing_is_marked(
    kafka_broker: BrokerHandle,
) -> None:
    topics = make_topics(kafka_broker.bootstrap)
    producer = make_producer(topics.kafka)
    bury(topics, producer, 0, Reason.EMPTY)
    headers = headers_of(topics, 1, Reason.EMPTY)
    producer.produce(topics.dead_letters, random.randbytes(4000), b"large", 1, headers=headers)
    assert producer.flush(30) == 0
    limit = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topics.documents, incremental_configs=[limit])
    admin = make_admin(topics.kafka)
    admin.incremental_alter_configs([resource])[resource].result()
    with pytest.raises(ConfigError, match=r"refuses it .* raise its max\.message\.bytes"):
        retry(topics.kafka, Filter())
    assert sent_back(topics) == {}
    assert not any(topics.documents in each for each in read_marks(topics.kafka))


@pytest.fixture
def many(broker: BrokerHandle) -> Topics:
    """Topics with 4,000 dead letters."""
    topics = make_topics(broker.bootstrap)
    producer = make_producer(topics.kafka)
    for number in range(4000):
        bury(topics, producer, number, Reason.EMPTY)
    assert producer.flush(30) == 0
    return topics


@pytest.mark.slow
def test_a_retry_that_another_took_over_from_sends_nothing_more(many: Topics) -> None:
    retry(many.kafka, Filter(since=parse_since("2100-01-01")))  # makes the topic of the marks
    letters = list(read_letters(many.kafka, Filter()))
    # The same records have failed in a replay, whose dead letters lie elsewhere.
    other = make_topics(many.bootstrap)
    replayed = replace(many, dead_letters=other.dead_letters)
    producer = make_producer(many.kafka)
    for number in range(20):
        bury(replayed, producer, number, Reason.EMPTY)
    assert producer.flush(30) == 0
    older = _Transactions(replayed.kafka)
    older.send(letters[:10])
    assert retry(many.kafka, Filter()).sent.total() == 3990
    with pytest.raises(FencedError):
        older.send(letters[10:20])
    assert retry(replayed.kafka, Filter()).already == 20
    assert len(sent_back(many)) == 4000


@pytest.mark.slow
def test_retries_at_once_and_one_that_is_killed_send_each_record_once(many: Topics, tmp_path: Path) -> None:
    command = ["dlq", "retry", *many.flags[:2], *many.flags[6:]]
    killed = start_cli(*command, log=tmp_path / "killed.log")
    wait_until(lambda: many.documents in str(marks(many)) or killed.poll() is not None)
    killed.kill()
    killed.wait()
    at_once = [start_cli(*command, log=tmp_path / f"{number}.log") for number in range(3)]
    codes = {process.wait(120) for process in at_once}
    assert codes <= {0, 5}, [path.read_text() for path in tmp_path.glob("*.log")]
    assert 0 in codes
    assert run_cli(*command).returncode == 0
    assert len(sent_back(many)) == 4000


def marks(topics: Topics) -> set[str]:
    return read_marks(topics.kafka)


@pytest.fixture
def hash_daemon(topics: Topics, tmp_path: Path) -> Iterator[Start]:
    """Runs `consume` with the hash encoder until it is drained."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**encoder: object) -> subprocess.Popen[bytes]:
        environment = clean_environment({"HASH_ENCODER": json.dumps(encoder)})
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        flags = [*topics.flags, "--metrics-port", "-1", "--group", topics.documents, "--until-drained"]
        with (tmp_path / f"daemon-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                ends_with_parent([sys.executable, "-m", "tests.hash_encoder", *flags], signal.SIGKILL),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def document(name: str, version: int, content: str) -> bytes:
    return encode_document(
        Document(
            id=name,
            version=version,
            content=content,
            content_hash="0" * 64,
            source="",
            segment=Segment(index=0, count=1, start_char=0),
            metadata={},
        )
    )


@pytest.mark.slow
def test_poison_is_all_embedded_once_its_cause_is_mended(
    topics: Topics, hash_daemon: Start, tmp_path: Path
) -> None:
    producer = make_producer(topics.kafka)
    for number in range(1000):
        content = "poison in here" if number % 100 == 7 else f"document {number}"
        producer.produce(
            topics.documents, document(f"{number}", 1, content), f"{number}".encode(), number % 3
        )
    # This one's newer version is good: its older version, sent back, must not replace it.
    producer.produce(topics.documents, document("7", 2, "a newer version"), b"7", 7 % 3)
    assert producer.flush(30) == 0
    assert hash_daemon(bad_words={"poison": "raise"}).wait(120) == 0
    listed = run_cli("dlq", "list", *topics.flags[:2], *topics.flags[6:], "--json")
    assert json.loads(listed.stdout)["reasons"]["encode_failed"]["count"] == 10

    done = run_cli("dlq", "retry", *topics.flags[:2], *topics.flags[6:], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sent"] == 10
    assert hash_daemon().wait(120) == 0

    verified = run_cli("verify", *topics.flags, "--group", topics.documents, "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0, verified.stdout
    assert (report["records"], report["dead_letters"], report["embeddings"]) == (1011, 10, 1001)
    inputs, outputs, letters = (
        read_all(topics.bootstrap, topic)
        for topic in (topics.documents, topics.embeddings, topics.dead_letters)
    )
    ends = Counter(message.partition() or 0 for message in inputs)
    found = check_exactly_once(inputs, outputs, letters, {each: 10 * count for each, count in ends.items()})
    assert found.is_exactly_once, found

    to = tmp_path / "out.parquet"
    exported = run_cli("export", "--to", to, *topics.flags, "--json")
    assert exported.returncode == 0, exported.stderr
    told = json.loads(exported.stdout)
    assert (told["rows"], told["documents"], told["behind"], told["absent"]) == (1000, 1000, 0, 0)
    import pyarrow.parquet as pq

    rows = pq.read_table(to).to_pylist()
    assert {row["id"] for row in rows} == set(newest_rows(outputs, letters, "hash"))
    assert [row["text"] for row in rows if row["document_id"] == "7"] == ["a newer version"]
    assert sum("poison" in row["text"] for row in rows) == 9


@pytest.mark.slow
def test_a_record_that_fails_again_counts_its_attempts_and_can_be_sent_back_again(
    topics: Topics, hash_daemon: Start
) -> None:
    producer = make_producer(topics.kafka)
    producer.produce(topics.documents, document("a", 1, "poison"), b"a", 1)
    assert producer.flush(30) == 0
    for attempts in (1, 2):
        assert hash_daemon(bad_words={"poison": "raise"}).wait(60) == 0
        letters = list(read_letters(topics.kafka, Filter()))
        assert [each.letter.attempts for each in letters if each.letter] == list(range(1, attempts + 1))
        assert retry(topics.kafka, Filter()).sent.total() == 1
    assert hash_daemon().wait(60) == 0
    [message] = read_all(topics.bootstrap, topics.embeddings)
    sent = [each.offset() for each in read_all(topics.bootstrap, topics.documents)]
    assert len(sent) == 3
    assert decode("embedding", message.value() or b"")["source"]["offset"] == sent[-1]
