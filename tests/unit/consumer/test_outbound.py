from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from consumer.encoder import ModelInfo
from consumer.outbound import RECORD_OVERHEAD_BYTES, ItemRecords, OutputLayout, build_records
from consumer.records import EmbeddedWindow, Failure, Item, Window
from schemas.avro import confluent_header
from schemas.dead_letter import DeadLetter, Reason
from schemas.deletion import deletion_source, deletion_version
from schemas.records import SourcePosition
from schemas.wire import decode_embedding
from tests.unit.consumer.items import a_deletion, a_document, a_refusal, an_end

MODEL = ModelInfo("a-model", "f00d", 2, 128, "fp32", "sdpa", "cpu")
LAYOUT = OutputLayout("embeddings", 2, 1_000_000, "dead-letters", 8, 4_000_000)
VECTOR = np.array([0.6, 0.8], np.float32)


def built(
    *items: Item, outcomes: list[np.ndarray | Failure] | None = None, **changes: object
) -> list[ItemRecords]:
    window = Window(1, items, 0)
    if outcomes is None:
        outcomes = [VECTOR for item in window.documents for _ in item.passages]
    layout = OutputLayout(**({f: getattr(LAYOUT, f) for f in LAYOUT.__slots__} | changes))
    return build_records(EmbeddedWindow(window, tuple(outcomes)), layout, MODEL, store_text=True, now_ms=5)


def test_a_document_becomes_an_embedding_for_each_passage_in_order() -> None:
    (one,) = built(a_document(partition=5, offset=42, lengths=(3, 4), start_char=100))
    first, second = (decode_embedding(record.value or b"") for record in one.records)
    assert [first.passage.index, second.passage.index] == [0, 1]
    assert first.passage.count == second.passage.count == 2
    assert (first.start_char, first.end_char) == (100, 103)
    assert (second.start_char, second.end_char) == (103, 107)
    assert first.text == "xxx"
    assert first.source == SourcePosition(topic="documents", partition=5, offset=42)
    assert first.document_id == "doc-5-42"
    assert first.document_version == 7
    assert first.metadata == {"title": "A test"}
    assert np.array_equal(first.vector, VECTOR)
    assert one.records[0].key == first.id.encode()
    assert uuid.UUID(first.id).version == 5
    assert one.failure is None


def test_embeddings_begin_with_what_the_layout_says_and_dead_letters_do_not() -> None:
    header = confluent_header(258)
    registered, refused = built(a_document(lengths=(3, 4)), a_refusal(), embeddings_header=header)
    plain, _ = built(a_document(lengths=(3, 4)), a_refusal())
    for one, other in zip(registered.records, plain.records, strict=True):
        assert one.value == header + (other.value or b"")[10:]
    assert refused.records[0].value == b"bad"


def test_embeddings_go_to_the_inputs_partition_modulo_the_outputs_count() -> None:
    assert [
        each.records[0].partition for each in built(a_document(partition=5), a_document(partition=2))
    ] == [1, 0]


def test_a_document_with_one_failed_passage_goes_to_the_dead_letters_whole() -> None:
    failure = Failure(Reason.NOT_FINITE, "NaN")
    bad, good = built(
        a_document(partition=5, offset=3, lengths=(2, 2)), a_document(), outcomes=[VECTOR, failure, VECTOR]
    )
    assert [record.topic for record in bad.records] == ["dead-letters"]
    assert [record.topic for record in good.records] == ["embeddings"]
    letter = DeadLetter.from_headers(bad.records[0].headers)
    assert letter.error_class == Reason.NOT_FINITE
    assert "passage 1 of 2" in letter.error_message
    assert letter.document_id == "doc-5-3"
    assert letter.source.offset == 3
    assert letter.attempts == 1
    assert bad.records[0].partition == 5


def test_a_dead_letter_holds_the_original_key_and_value() -> None:
    item = a_refusal(value=b"\x00\xff broken")
    (one,) = built(item)
    assert one.records[0].value == b"\x00\xff broken"
    assert one.records[0].key == b"key"
    assert one.failure == Failure(Reason.NOT_AVRO, "no Avro")


def test_a_dead_letter_larger_than_its_topic_takes_leaves_the_value_out_and_says_so() -> None:
    (one,) = built(a_refusal(value=b"x" * 50_000), dead_letters_max_bytes=20_000)
    assert one.records[0].value is None
    assert ("value.omitted.bytes", b"50000") in one.records[0].headers
    assert DeadLetter.from_headers(one.records[0].headers).source.partition == 0


def test_an_embedding_larger_than_its_topic_takes_makes_its_document_a_dead_letter() -> None:
    (one,) = built(a_document(lengths=(9000,)), embeddings_max_bytes=5000)
    assert one.failure is not None
    assert one.failure.reason == Reason.TOO_LARGE
    assert [record.topic for record in one.records] == ["dead-letters"]


def test_a_deletion_is_passed_on_under_its_key_with_its_version_and_source() -> None:
    (one,) = built(a_deletion(partition=3, offset=11))
    (record,) = one.records
    assert (record.topic, record.partition, record.key, record.value) == ("embeddings", 1, b"key", None)
    assert deletion_version(record.headers) == 9
    assert deletion_source(record.headers) == SourcePosition(topic="documents", partition=3, offset=11)


def test_the_end_of_a_partition_produces_nothing() -> None:
    (one,) = built(an_end())
    assert one.records == ()


def test_attempts_of_a_record_that_was_sent_back_are_counted_on() -> None:
    item = a_refusal()
    (one,) = built(replace(item, input=item.input._replace(headers=(("attempts", b"2"),))))
    assert DeadLetter.from_headers(one.records[0].headers).attempts == 3


@pytest.mark.parametrize(
    "header", [("attempts", b"many"), ("attempts", None), ("attempts", b""), ("another", b"5")], ids=str
)
def test_a_header_that_tells_no_attempts_counts_as_none(header: tuple[str, bytes | None]) -> None:
    item = a_refusal()
    (one,) = built(replace(item, input=item.input._replace(headers=(header,))))
    assert DeadLetter.from_headers(one.records[0].headers).attempts == 1


def test_an_embedding_as_large_as_its_topic_takes_is_one_and_a_byte_more_is_not() -> None:
    document = a_document(lengths=(40, 900, 7))
    (one,) = built(document)
    largest = max(len(each.key or b"") + len(each.value or b"") for each in one.records)
    fits = largest + RECORD_OVERHEAD_BYTES
    (whole,) = built(document, embeddings_max_bytes=fits)
    assert whole.failure is None
    (dead,) = built(document, embeddings_max_bytes=fits - 1)
    assert dead.failure is not None
    assert dead.failure.reason == Reason.TOO_LARGE


def test_a_dead_letter_as_large_as_its_topic_takes_keeps_its_value_and_a_byte_more_does_not() -> None:
    item = a_refusal(value=b"x" * 5000)
    # Its headers are reckoned with 2 KiB: the message alone may take one.
    fits = item.input.size + RECORD_OVERHEAD_BYTES + 2048
    (kept,) = built(item, dead_letters_max_bytes=fits)
    assert kept.records[0].value == b"x" * 5000
    (left,) = built(item, dead_letters_max_bytes=fits - 1)
    assert left.records[0].value is None


def test_what_is_sent_at_once_is_less_than_the_smaller_topic_takes() -> None:
    assert LAYOUT.batch_bytes == 1_000_000 - RECORD_OVERHEAD_BYTES
    assert replace(LAYOUT, dead_letters_max_bytes=9000).batch_bytes == 9000 - RECORD_OVERHEAD_BYTES
