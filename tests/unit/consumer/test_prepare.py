from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from consumer.ownership import Ownership
from consumer.prepare import Decoded, Preparer, decode, split
from consumer.queues import BoundedQueue
from consumer.records import Deletion, Polled, Refused, SplitDocument, Window, polled
from consumer.split import Passage, Split, Splitter
from consumer.windows import WindowBuilder
from embedstream.metrics import Metrics
from embedstream.rate import RateLimit
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


def a_preparer(
    inputs: BoundedQueue[Polled],
    windows: BoundedQueue[Window],
    rate: int | None = None,
    current: Callable[[Sequence[Polled]], list[Polled]] = list,
) -> Preparer:
    return Preparer(
        inputs,
        windows,
        WindowBuilder(seconds=0.1, size=10_000_000, linger=0.0, first_tokens=1),
        HashEncoder().splitter,
        Metrics(),
        current=current,
        tokens_per_second=lambda: None,
        encoder_is_idle=lambda: True,
        moved=lambda: None,
        limit=RateLimit(rate),
    )


def test_a_rate_holds_back_what_is_taken_and_not_what_was_taken_before() -> None:
    inputs: BoundedQueue[Polled] = BoundedQueue(10_000_000)
    windows: BoundedQueue[Window] = BoundedQueue(100)
    preparer = a_preparer(inputs, windows, rate=1000)
    thread = threading.Thread(target=preparer.run, daemon=True)
    inputs.put(a_document(offset=0, lengths=(600_000,)).input)
    thread.start()
    # The first comes through at once; what it takes is then due for ten minutes.
    assert windows.get(30.0) is not None
    inputs.put(a_document(offset=1).input)
    assert windows.get(0.5) is None
    # Held back, it still ends at once.
    inputs.close(discard=True)
    thread.join(30.0)
    assert not thread.is_alive()


def test_what_waits_of_a_partition_that_was_taken_away_is_not_prepared() -> None:
    """Its new owner embeds it: encoded here as well, it would be left out at its delivery."""
    ownership = Ownership()
    ownership.assign([("documents", 0), ("documents", 1)])
    inputs: BoundedQueue[Polled] = BoundedQueue(10_000_000)
    windows: BoundedQueue[Window] = BoundedQueue(100)
    kept = [a_document(offset=offset, partition=1, assignment=2).input for offset in range(3)]
    for offset, one in enumerate(kept):
        inputs.put(a_document(offset=offset, partition=0, assignment=1).input)
        inputs.put(one)
    inputs.put(an_end(offset=3, partition=0, assignment=1))
    ownership.withdraw([("documents", 0)])
    preparer = a_preparer(inputs, windows, current=ownership.current)
    thread = threading.Thread(target=preparer.run, daemon=True)
    thread.start()
    items: list[Polled] = []
    while len(items) < len(kept):
        window = windows.get(30.0)
        assert window is not None
        items += map(polled, window.items)
    inputs.close()
    thread.join(30.0)
    assert items == kept
