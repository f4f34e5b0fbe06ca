from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.queues import BoundedQueue, Closed


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_items_come_out_in_order_and_their_cost_never_exceeds_the_capacity(
    costs: list[int], capacity: int
) -> None:
    queue: BoundedQueue[int] = BoundedQueue(capacity)
    taken: list[int] = []
    for number, cost in enumerate(costs):
        while not queue.try_put(number, cost):
            item = queue.get(0)
            assert item is not None
            taken.append(item)
        assert queue.cost <= capacity or len(queue) == 1
    queue.close()
    with pytest.raises(Closed):
        while True:
            item = queue.get(0)
            assert item is not None
            taken.append(item)
    assert taken == list(range(len(costs)))


def test_an_item_larger_than_the_capacity_passes_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(10)
    assert queue.try_put("huge", 1000)
    assert not queue.try_put("next", 1)
    assert queue.get(0) == "huge"
    assert queue.try_put("next", 1)


def test_a_put_that_waits_goes_on_when_there_is_room() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    done = threading.Event()

    def put() -> None:
        queue.put(2)
        done.set()

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    assert not done.wait(0.05)
    assert queue.get() == 1
    assert done.wait(5)
    thread.join()
    assert queue.get() == 2


def test_closing_wakes_a_put_that_waits() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    raised = threading.Event()

    def put() -> None:
        try:
            queue.put(2)
        except Closed:
            raised.set()

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    queue.close(discard=True)
    assert raised.wait(5)
    thread.join()


def test_closing_wakes_a_get_that_waits() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    raised = threading.Event()

    def get() -> None:
        try:
            queue.get()
        except Closed:
            raised.set()

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    queue.close()
    assert raised.wait(5)
    thread.join()


def test_an_empty_queue_returns_none_after_the_timeout() -> None:
    assert BoundedQueue[int](1).get(0.01) is None
