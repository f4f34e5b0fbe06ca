from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from embedstream.errors import ConfigError, TryAgainError
from embedstream.kafka import make_admin, make_consumer, make_producer
from embedstream.settings import KafkaSettings, Settings
from embedstream.verify import verify
from embedstream.verify_report import Report
from schemas.dead_letter import DeadLetter, Reason
from schemas.deletion import deletion_headers, passed_on_headers
from schemas.records import SourcePosition, embedding_id
from schemas.wire import EmbeddingFields, encode_embedding
from tests.brokers import BrokerHandle

MODEL = "f00d"
GROUP = "verified"
Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True)
class Stage:
    """Three topics written by hand, as a producer and a consumer daemon write them.

    `counts` are the partitions of the documents, embeddings and dead-letter topics.
    """

    kafka: KafkaSettings
    counts: tuple[int, int, int]
    producer: Producer

    def check(self, group: str = GROUP, stall_seconds: float = 30.0) -> Report:
        assert self.producer.flush(30) == 0
        return verify(Settings(kafka=self.kafka), group=group, stall_seconds=stall_seconds)

    def document(self, partition: int, value: bytes | None = b"never decoded") -> None:
        headers: Headers = [*deletion_headers(7)] if value is None else []
        self.producer.produce(self.kafka.documents_topic, value, b"a", partition, headers=headers)

    def passage(
        self,
        source: tuple[int, int],
        index: int = 0,
        count: int = 1,
        *,
        model: str = MODEL,
        output: int | None = None,
        topic: str | None = None,
        producer: Producer | None = None,
    ) -> None:
        """Put an embedding of the input record (partition, offset) where it belongs, or into `output`."""
        partition = source[0] % self.counts[1] if output is None else output
        value = embedding(topic or self.kafka.documents_topic, source, index, count, model)
        (producer or self.producer).produce(self.kafka.embeddings_topic, value, b"key", partition)

    def pass_on(self, source: tuple[int, int]) -> None:
        headers: Headers = [*passed_on_headers(7, self.position(source))]
        partition = source[0] % self.counts[1]
        self.producer.produce(self.kafka.embeddings_topic, None, b"a", partition, headers=headers)

    def bury(self, source: tuple[int, int], model: str = MODEL) -> None:
        letter = DeadLetter(
            error_class=Reason.EMPTY,
            error_message="no text",
            source=self.position(source),
            model="test",
            model_fingerprint=model,
        )
        partition = source[0] % self.counts[2]
        topic = self.kafka.dead_letters_topic
        self.producer.produce(topic, b"never decoded", b"a", partition, headers=[*letter.to_headers()])

    def position(self, source: tuple[int, int]) -> SourcePosition:
        return SourcePosition(topic=self.kafka.documents_topic, partition=source[0], offset=source[1])

    def commit(self, *offsets: int, model: str = MODEL) -> None:
        """Commit the offset of each partition; None of them is waited for by a member."""
        consumer = make_consumer(self.kafka, group_id=GROUP)
        topic = self.kafka.documents_topic
        parts = [TopicPartition(topic, p, offset, model) for p, offset in enumerate(offsets)]
        consumer.commit(offsets=parts, asynchronous=False)
        consumer.close()

    def transactional(self) -> Producer:
        producer = make_producer(self.kafka, transactional_id=f"test-{uuid.uuid4().hex[:8]}")
        producer.init_transactions(30)
        return producer


def embedding(topic: str, source: tuple[int, int], index: int, count: int, model: str) -> bytes:
    fields: EmbeddingFields = {
        "id": embedding_id(model, "a", index, index + 1),
        "document_id": "a",
        "document_version": 7,
        "content_hash": hashlib.sha256(b"").hexdigest(),
        "source": {"topic": topic, "partition": source[0], "offset": source[1]},
        "segment": {"index": 0, "count": 1},
        "passage": {"index": index, "count": count},
        "start_char": index,
        "end_char": index + 1,
        "text": "x",
        "token_count": 3,
        "model": "test",
        "model_fingerprint": model,
        "precision": "fp32",
        "dim": 2,
        "metadata": {},
        "embedded_at": 7,
    }
    return encode_embedding(fields, np.ones(2, np.float32))


def make_stage(broker: BrokerHandle, documents: int = 1, embeddings: int = 1, dead_letters: int = 1) -> Stage:
    name = f"verify-{uuid.uuid4().hex[:8]}"
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap,
        documents_topic=f"{name}-documents",
        embeddings_topic=f"{name}-embeddings",
        dead_letters_topic=f"{name}-dead-letters",
    )
    counts = (documents, embeddings, dead_letters)
    names = (kafka.documents_topic, kafka.embeddings_topic, kafka.dead_letters_topic)
    admin = make_admin(kafka)
    made = admin.create_topics(
        [
            NewTopic(topic, num_partitions=n, replication_factor=1)
            for topic, n in zip(names, counts, strict=True)
        ]
    )
    for future in made.values():
        future.result()
    return Stage(kafka, counts, make_producer(kafka, linger_ms=5))


def found(report: Report) -> list[tuple[str, str]]:
    """The findings: kind, and the position without the topic's random name."""
    return [(each.kind.value, each.position.partition("-")[2].partition("-")[2]) for each in report.findings]


def test_three_input_partitions_in_two_output_ones_are_all_well(broker: BrokerHandle) -> None:
    stage = make_stage(broker, 3, 2, 1)
    for _ in range(4):
        for partition in range(3):
            stage.document(partition)
    stage.document(2, None)
    # Partitions 0 and 2 share output 0, in windows that alternate; 1 has output 1 for itself.
    for source in ((0, 0), (2, 0), (2, 1), (0, 1), (0, 2), (2, 3), (0, 3), (1, 0), (1, 1), (1, 2)):
        for index in range(3):
            stage.passage(source, index, 3)
    stage.pass_on((2, 4))
    stage.bury((2, 2))
    stage.commit(4, 3, 5)
    report = stage.check()
    assert report.ok, list(report.lines())
    assert (report.records, report.embeddings, report.dead_letters, report.deletions) == (12, 30, 1, 1)
    assert report.pending == 1
    assert report.model_fingerprints == (MODEL,)
    assert report.to_json()["ok"] is True


def test_every_finding_is_listed_by_its_input_position(broker: BrokerHandle) -> None:
    stage = make_stage(broker, 3, 2, 2)
    for _ in range(6):
        stage.document(0)
        stage.document(2)
    for index in (0, 2):
        stage.passage((0, 0), index, 3)
    stage.passage((0, 1))
    stage.passage((2, 1))
    stage.passage((0, 3))
    stage.passage((0, 2))
    stage.passage((0, 3))
    stage.passage((0, 4))
    stage.bury((0, 4))
    stage.passage((2, 0), output=1)
    stage.passage((2, 2), topic="x-x-elsewhere")
    stage.pass_on((2, 3))
    stage.passage((2, 9))
    stage.producer.produce(stage.kafka.embeddings_topic, b"not avro", b"a", 1)
    stage.producer.produce(stage.kafka.dead_letters_topic, b"no headers", b"a", 1)
    stage.commit(5, 0, 4)
    report = stage.check()
    assert not report.ok
    assert sorted(found(report)) == sorted(
        [
            ("missing", "documents/0/0"),
            ("missing", "documents/2/0"),
            ("missing", "documents/2/2"),
            ("missing", "documents/2/3"),
            ("out_of_order", "documents/0/2"),
            ("double", "documents/0/3"),
            ("double", "documents/0/4"),
            ("unexpected", "documents/2/0"),
            ("unexpected", "elsewhere/2/2"),
            ("unexpected", "documents/2/3"),
            ("unexpected", "documents/2/9"),
            ("unexpected", "embeddings/1/1"),
            ("unexpected", "dead-letters/1/0"),
        ]
    )
    assert (report.missing, report.double, report.out_of_order, report.unexpected) == (4, 2, 1, 6)
    missing = next(each for each in report.findings if each.position.endswith("documents/0/0"))
    assert missing.detail == "1 of 3 passages: 1"
    assert any("NOT all is well" in line for line in report.lines())


def test_a_window_that_was_delivered_again_is_double(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    for _ in range(4):
        stage.document(0)
    for offset in (0, 1, 2, 1, 2, 3):
        stage.passage((0, offset))
    stage.commit(4)
    report = stage.check()
    assert found(report) == [("double", "documents/0/1"), ("double", "documents/0/2")]
    assert report.embeddings == 4


def test_aborted_records_are_neither_missing_nor_double(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    writer, daemon = stage.transactional(), stage.transactional()
    for is_kept in (False, True, False):
        writer.begin_transaction()
        writer.produce(stage.kafka.documents_topic, b"document", b"a", 0)
        writer.flush(30)
        if is_kept:
            writer.commit_transaction(30)
        else:
            writer.abort_transaction(30)
    consumer = make_consumer(stage.kafka, group_id="unused")
    consumer.assign([TopicPartition(stage.kafka.documents_topic, 0, 0)])
    kept = consumer.poll(30)
    assert kept is not None
    offset = kept.offset()
    end = consumer.get_watermark_offsets(TopicPartition(stage.kafka.documents_topic, 0), timeout=30)[1]
    consumer.close()
    assert offset is not None
    for is_kept in (False, True, False):
        daemon.begin_transaction()
        stage.passage((0, offset), producer=daemon)
        daemon.flush(30)
        if is_kept:
            daemon.commit_transaction(30)
        else:
            daemon.abort_transaction(30)
    stage.commit(end)
    report = stage.check()
    assert report.ok, list(report.lines())
    assert (report.records, report.embeddings, report.pending) == (1, 1, 0)
    # The offset of an aborted record is no record.
    stage.passage((0, offset - 1))
    assert found(stage.check()) == [("unexpected", f"documents/0/{offset - 1}")]


def test_it_waits_for_an_open_transaction_that_holds_committed_output_back(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    ghost = stage.transactional()
    stage.document(0)
    ghost.begin_transaction()
    stage.passage((0, 0), producer=ghost)
    ghost.flush(30)
    # Committed and acknowledged, and still no reader sees it before the ghost's transaction has ended.
    stage.passage((0, 0))
    stage.commit(1)
    with pytest.raises(TryAgainError, match="open transaction"):
        stage.check(stall_seconds=1)
    with ThreadPoolExecutor() as pool:
        checking = pool.submit(stage.check)
        ghost.abort_transaction(30)
        report = checking.result(60)
    assert report.ok, list(report.lines())
    assert report.embeddings == 1


def test_output_of_records_committed_meanwhile_is_ahead(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    for _ in range(3):
        stage.document(0)
    for offset in range(3):
        stage.passage((0, offset))
    stage.commit(2)
    report = stage.check()
    assert report.ok
    assert (report.records, report.embeddings, report.ahead, report.pending) == (2, 2, 1, 1)


def test_output_of_another_model_is_left_alone(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    stage.document(0)
    stage.document(0)
    for model in ("beef", MODEL):
        stage.passage((0, 0), model=model)
    for model in ("beef", MODEL):
        stage.bury((0, 1), model)
    stage.commit(2)
    report = stage.check()
    assert report.ok, list(report.lines())
    assert (report.embeddings, report.dead_letters, report.other_models) == (1, 1, 2)


def test_offsets_of_two_models_in_one_group_are_a_finding(broker: BrokerHandle) -> None:
    stage = make_stage(broker, 2, 2, 2)
    for partition, model in enumerate((MODEL, "beef")):
        stage.document(partition)
        stage.passage((partition, 0), model=model)
    stage.commit(1, 1)
    assert stage.check().missing == 1
    consumer = make_consumer(stage.kafka, group_id=GROUP)
    consumer.commit(offsets=[TopicPartition(stage.kafka.documents_topic, 1, 1, "beef")], asynchronous=False)
    consumer.close()
    report = stage.check()
    assert not report.ok
    assert report.model_fingerprints == ("beef", MODEL)
    assert report.findings == ()


def test_a_group_without_offsets_is_named_with_the_mend(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    assert stage.check().ok  # nothing is there, so nothing is missing
    stage.document(0)
    with pytest.raises(ConfigError, match=r"'verified' has committed no offsets.*--group"):
        stage.check()


def test_a_topic_that_does_not_exist_is_named(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    kafka = stage.kafka.model_copy(update={"embeddings_topic": "nowhere"})
    with pytest.raises(ConfigError, match=r"kafka\.embeddings_topic 'nowhere' does not exist"):
        verify(Settings(kafka=kafka), group=GROUP)


def test_a_committed_offset_beyond_the_end_is_a_finding(broker: BrokerHandle) -> None:
    stage = make_stage(broker)
    stage.document(0)
    stage.passage((0, 0))
    stage.commit(5)
    report = stage.check()
    assert found(report) == [("unexpected", "documents/0/5")]


@pytest.mark.slow
def test_output_of_records_that_the_input_has_dropped_is_expired(kafka_broker: BrokerHandle) -> None:
    # The embedded broker can't delete records.
    stage = make_stage(kafka_broker)
    for offset in range(4):
        stage.document(0)
        stage.passage((0, offset))
    stage.producer.flush(30)
    stage.commit(4)
    admin = make_admin(stage.kafka)
    dropped = admin.delete_records([TopicPartition(stage.kafka.documents_topic, 0, 2)])
    for future in dropped.values():
        future.result()
    report = stage.check()
    assert report.ok, list(report.lines())
    assert (report.records, report.embeddings, report.expired) == (2, 2, 2)


PEAK = """
import resource, sys
from embedstream.logs import configure
from embedstream.settings import KafkaSettings, Settings
from embedstream.verify import verify
configure()
kafka = KafkaSettings.model_validate_json(sys.argv[1])
report = verify(Settings(kafka=kafka), group="verified")
print(report.ok, report.records, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(stage: Stage, records: int) -> int:
    """The most memory that a process checking `records` records, half of them missing, takes."""
    # Not compressed: a fetch of fixed size then holds the same number of records, however many there are.
    stage = replace(stage, producer=make_producer(stage.kafka, compression_type="none"))
    document = bytes(200)
    for offset in range(records):
        stage.document(0, document)
        if offset % 2:
            stage.passage((0, offset))
        if offset % 2000 == 0:
            stage.producer.flush(30)
    assert stage.producer.flush(60) == 0
    stage.commit(records)
    command = [sys.executable, "-c", PEAK, stage.kafka.model_dump_json()]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250, cwd=root)
    ok, count, peak = done.stdout.split()
    assert (ok, int(count)) == ("False", records)
    return int(peak)


@pytest.mark.slow
def test_a_hundred_times_the_records_take_the_same_memory(kafka_broker: BrokerHandle) -> None:
    # The embedded broker answers a fetch with all that it has, whatever the client asks for.
    few = peak_kib(make_stage(kafka_broker), 2_000)
    many = peak_kib(make_stage(kafka_broker), 200_000)
    assert many - few < 8 * 1024, f"{few} KiB for 2,000 records, {many} KiB for 200,000"
