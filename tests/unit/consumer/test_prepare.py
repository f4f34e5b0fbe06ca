from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from consumer.prepare import Decoded, decode, split
from consumer.records import Deletion, Refused, SplitDocument
from consumer.split import Passage, Split, Splitter
from schemas.dead_letter import Reason
from schemas.deletion import deletion_headers
from tests.hash_encoder import HashEncoder
from tests.unit.consumer.items import a_document, a_record, an_end


class Grudging:
    """A splitter that fails for texts with a `!`, and for any batch that holds one."""

    def split_many(self, texts: Sequence[str]) -> list[Split]:
        if any("!" in text for text in texts):
            raise RuntimeError("no shouting")
        ids = np.array([1], np.int32)
        return [Split((Passage(0, len(text), ids, 1),), truncated=False) for text in texts]


def test_a_record_that_is_not_avro_is_refused_by_name() -> None:
    refused = decode(a_record(value=b"hello"))
    assert isinstance(refused, Refused)
    assert refused.reason == Reason.NOT_AVRO


def test_a_record_with_an_unknown_fingerprint_is_refused_by_name() -> None:
    refused = decode(a_record(value=b"\xc3\x01" + b"12345678" + b"abc"))
    assert isinstance(refused, Refused)
    assert refused.reason == Reason.UNKNOWN_SCHEMA


def test_a_null_value_is_a_deletion_with_the_version_of_its_header() -> None:
    record = a_record(value=None)._replace(headers=tuple(deletion_headers(123)))
    assert decode(record) == Deletion(record, 123)


def test_a_null_value_without_a_version_takes_the_time_of_the_record() -> None:
    record = a_record(value=None)
    assert decode(record) == Deletion(record, record.timestamp)


def test_order_is_kept_and_the_end_of_a_partition_passes_through() -> None:
    first, last = a_document(offset=0), a_document(offset=2)
    end = an_end(offset=1)
    decoded: list[Decoded] = [(first.input, first.document), end, (last.input, last.document)]
    items = split(decoded, HashEncoder().splitter)
    assert isinstance(items[0], SplitDocument)
    assert items[1] is end
    assert isinstance(items[2], SplitDocument)
    assert [items[0].input.offset, items[2].input.offset] == [0, 2]


def test_a_document_of_white_space_is_refused_as_empty() -> None:
    one = a_document()
    blank = one.document._replace(content=" \n\t ")
    (item,) = split([(one.input, blank)], HashEncoder().splitter)
    assert isinstance(item, Refused)
    assert item.reason == Reason.EMPTY
    assert item.document_id == one.document.id


def test_a_text_that_the_tokenizer_fails_on_does_not_cost_its_neighbours() -> None:
    documents = [a_document(offset=offset) for offset in range(7)]
    decoded: list[Decoded] = [
        (one.input, one.document._replace(content="!" if one.input.offset == 4 else "quiet"))
        for one in documents
    ]
    items = split(decoded, cast(Splitter, Grudging()))
    kinds = [type(item).__name__ for item in items]
    assert kinds == ["SplitDocument"] * 4 + ["Refused"] + ["SplitDocument"] * 2
    refused = items[4]
    assert isinstance(refused, Refused)
    assert refused.reason == Reason.ENCODE_FAILED
    assert "no shouting" in refused.message
