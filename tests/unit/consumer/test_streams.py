from __future__ import annotations

import gc
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumer.streams import MOST_STREAMS, Streams, parts
from tests.kafka import wait_until

Ids = NDArray[np.int32]


def passages(*lengths: int) -> list[Ids]:
    """Passages of these lengths, each of a number of its own."""
    return [np.full(length, number, dtype=np.int32) for number, length in enumerate(lengths)]


def numbers(part: Sequence[Ids]) -> NDArray[np.float32]:
    return np.array([[ids[0], len(ids)] for ids in part], dtype=np.float32)


def workers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("embed-")}


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(1, 6))
def test_parts_are_the_batch_in_its_order_and_as_even_as_its_passages_let_them(
    lengths: list[int], count: int
) -> None:
    batch = passages(*lengths)
    found = parts(batch, count)
    assert 1 <= len(found) <= count
    assert all(found)
    assert [int(ids[0]) for part in found for ids in part] == list(range(len(batch)))
    most = max(sum(map(len, part)) for part in found)
    assert most <= sum(lengths) / count + max(lengths)


def test_a_batch_of_one_enormous_and_many_tiny_passages_is_cut_behind_the_enormous_one() -> None:
    assert [len(part) for part in parts(passages(500, *[1] * 40), 2)] == [1, 40]


def test_vectors_come_in_the_order_of_each_batch_whatever_part_is_done_first() -> None:
    streams = Streams(2)
    second_is_done = threading.Event()

    def encode(part: Sequence[Ids]) -> NDArray[np.float32]:
        # The first part waits for the second: they run at a time.
        if part[0][0] == 0:
            assert second_is_done.wait(30)
        else:
            second_is_done.set()
        return numbers(part)

    batch = passages(3, 3, 2, 1)
    pending = [streams.submit(encode, batch), streams.submit(numbers, batch[:1])]
    assert np.array_equal(pending[0].result(), numbers(batch))
    assert np.array_equal(pending[1].result(), numbers(batch[:1]))


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, [1]), (2, [1, 1]), (MOST_STREAMS * 2 + 1, [2] * MOST_STREAMS)]
)
def test_the_threads_share_the_cores(cores: int, threads: list[int]) -> None:
    own = torch.get_num_threads()
    streams = Streams(cores)
    together = threading.Barrier(streams.count)

    def encode(part: Sequence[Ids]) -> NDArray[np.float32]:
        together.wait(30)
        return np.full((len(part), 1), torch.get_num_threads(), dtype=np.float32)

    found = streams.submit(encode, passages(*[5] * streams.count)).result()
    assert found.ravel().tolist() == threads
    assert torch.get_num_threads() == own


def test_a_part_that_fails_fails_its_batch_and_no_other() -> None:
    def fail(part: Sequence[Ids]) -> NDArray[np.float32]:
        if any(ids[0] == 3 for ids in part):
            raise ValueError("the fourth")
        return numbers(part)

    streams = Streams(2)
    batch = passages(5, 5, 5, 5)
    failing, next_one = streams.submit(fail, batch), streams.submit(numbers, batch)
    with pytest.raises(ValueError, match="the fourth"):
        failing.result()
    assert np.array_equal(next_one.result(), numbers(batch))


def test_the_threads_end_when_nobody_refers_to_them() -> None:
    before = workers()
    streams = Streams(2)
    streams.submit(numbers, passages(1, 1)).result()
    own = workers() - before
    assert len(own) == 2
    del streams
    gc.collect()
    wait_until(lambda: not any(each.is_alive() for each in own), 30)
