from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from structlog.testing import capture_logs

from consumer.dead_letter_limit import DeadLetterLimit
from consumer.deliver import Deliverer, NotDelivered
from consumer.encoder import ModelInfo
from consumer.outbound import ItemRecords, OutputLayout
from consumer.ownership import Ownership
from consumer.queues import BoundedQueue
from consumer.records import EmbeddedWindow, Item, Window, polled
from embedstream.errors import (
    ConfigError,
    EmbedstreamError,
    FencedError,
    ServiceUnavailableError,
    TooManyDeadLettersError,
    TryAgainError,
)
from embedstream.metrics import Metrics
from tests.unit.consumer.items import a_document, a_refusal, an_end

MODEL = ModelInfo("a-model", "f00d", 2, 128, "fp32", "sdpa", "cpu")
LAYOUT = OutputLayout("embeddings", 2, 1_000_000, "dead-letters", 2, 4_000_000)
VECTOR = np.array([0.6, 0.8], np.float32)


class Landed:
    """Delivers into a list: the positions of each window that landed."""

    def __init__(self, failures: int = 0, rival: bool = False) -> None:
        self.windows: list[list[tuple[int, int]]] = []
        self._failures = failures
        self._rival = rival

    def prepare(self) -> None:
        pass

    def has_rival(self) -> bool:
        return self._rival

    def deliver(self, items: Sequence[ItemRecords]) -> None:
        if self._failures:
            self._failures -= 1
            raise NotDelivered("for the test")
        sources = [polled(each.item) for each in items]
        self.windows.append([(source.partition, source.offset) for source in sources])

    def close(self) -> None:
        pass


def run(
    landed: Landed,
    *windows: Sequence[Item],
    ratio: float = 0.5,
    ownership: Ownership | None = None,
    giving_up: bool = False,
    fenced: bool = False,
    layout: Callable[[], OutputLayout] = lambda: LAYOUT,
    metrics: Metrics | None = None,
) -> None:
    """The stage over these windows, from partitions 0 and 1 under their first assignments (1 and 2)."""
    queue: BoundedQueue[EmbeddedWindow] = BoundedQueue(len(windows) or 1)
    for number, items in enumerate(windows):
        window = Window(number, tuple(items), 0)
        vectors = tuple(VECTOR for item in window.documents for _ in item.passages)
        queue.put(EmbeddedWindow(window, vectors))
    queue.close()
    if ownership is None:
        ownership = Ownership()
        ownership.assign([("documents", 0), ("documents", 1)])
    Deliverer(
        queue,
        landed,
        ownership,
        DeadLetterLimit(ratio, 100),
        layout,
        MODEL,
        metrics or Metrics(),
        store_text=True,
        fenced=lambda: fenced,
        giving_up=lambda: giving_up,
        moved=lambda: None,
    ).run()


def test_windows_are_delivered_in_order() -> None:
    landed = Landed()
    run(landed, [a_document(0, 0)], [a_document(0, 1), a_refusal(0, 2)], [an_end(0, 3)])
    assert landed.windows == [[(0, 0)], [(0, 1), (0, 2)], [(0, 3)]]


def test_every_line_about_a_window_names_its_offsets() -> None:
    items: list[Item] = [a_document(0, 5), a_document(1, 7, 2), a_refusal(0, 6), an_end(1, 8, 2)]
    with capture_logs() as lines:
        run(Landed(failures=1), [*items, *(a_document(0, offset) for offset in range(7, 20))])
        run(Landed(), items, ownership=Ownership())
    assert [(line["event"], line["window"], line["offsets"]) for line in lines] == [
        ("window_not_delivered", 0, {0: [5, 19], 1: [7, 7]}),
        ("window_delivered", 0, {0: [5, 19], 1: [7, 7]}),
        ("window_dropped", 0, {0: [5, 6], 1: [7, 7]}),
    ]


@pytest.mark.parametrize(("ahead", "age"), [(-60.0, 60.0), (3600.0, 0.0)])
def test_a_record_from_a_clock_that_is_ahead_is_new_and_not_from_the_future(ahead: float, age: float) -> None:
    metrics = Metrics()
    item = a_document(0, 0)
    source = item.input._replace(timestamp=int((time.time() + ahead) * 1000))
    run(Landed(), [item._replace(input=source)], metrics=metrics)
    told = metrics.registry.get_sample_value("embedstream_record_age_seconds")
    assert told == pytest.approx(age, abs=30)


def test_a_backlog_of_poison_in_windows_of_one_record_is_stopped_before_anything_is_delivered() -> None:
    landed = Landed()
    with pytest.raises(TooManyDeadLettersError):
        run(landed, *([a_refusal(0, offset)] for offset in range(20)))
    assert landed.windows == []


def test_of_the_window_that_is_past_the_limit_nothing_is_delivered() -> None:
    landed = Landed()
    good = [a_document(0, offset) for offset in range(20)]
    bad = [a_refusal(0, offset) for offset in range(20, 45)]
    with pytest.raises(TooManyDeadLettersError):
        run(landed, good, bad)
    assert len(landed.windows) == 1


def test_a_few_bad_records_that_are_all_there_is_are_delivered() -> None:
    landed = Landed()
    run(landed, [an_end(1, 0, 2), a_refusal(0, 0)], [a_refusal(0, 1)], [an_end(0, 2)])
    assert landed.windows == [[(1, 0), (0, 0)], [(0, 1)], [(0, 2)]]


def test_a_partition_that_was_not_read_to_its_end_may_hold_what_there_is_to_judge_by() -> None:
    landed = Landed()
    run(landed, [a_refusal(0, 0), an_end(0, 1)], [an_end(1, 0, 2), a_refusal(1, 0, 2)])
    assert landed.windows == []
    with pytest.raises(TooManyDeadLettersError):
        run(landed, [a_refusal(0, 0), an_end(0, 1)], *([a_refusal(1, offset, 2)] for offset in range(20)))
    assert landed.windows == []


def test_the_end_of_a_partition_that_was_ours_before_says_nothing_of_what_came_since() -> None:
    landed = Landed()
    ownership = Ownership()
    ownership.assign([("documents", 0), ("documents", 1), ("documents", 1)])
    run(landed, [an_end(1, 0, 2), a_refusal(0, 0), an_end(0, 1)], ownership=ownership)
    assert landed.windows == []
    run(landed, [an_end(1, 0, 3), a_refusal(0, 0), an_end(0, 1)], ownership=ownership)
    assert landed.windows == [[(1, 0), (0, 0), (0, 1)]]


def test_a_few_bad_records_at_the_start_wait_for_those_that_decide() -> None:
    landed = Landed()
    run(landed, [a_refusal(0, 0)], [a_refusal(0, 1)])
    assert landed.windows == []
    run(landed, [a_refusal(0, 0)], [a_refusal(0, 1)], [a_document(0, 2), a_document(0, 3)])
    assert landed.windows == [[(0, 0)], [(0, 1)], [(0, 2), (0, 3)]]


def test_a_record_after_the_end_that_was_reached_is_waited_for_again() -> None:
    landed = Landed()
    run(landed, [a_refusal(0, 0), an_end(0, 1), a_refusal(0, 1)])
    assert landed.windows == []


def test_each_partition_must_have_ended() -> None:
    landed = Landed()
    run(landed, [a_refusal(0, 0), a_refusal(1, 0, assignment=2), an_end(0, 1)])
    assert landed.windows == []
    run(landed, [a_refusal(0, 0), a_refusal(1, 0, assignment=2), an_end(0, 1), an_end(1, 1, assignment=2)])
    assert len(landed.windows) == 1


def test_a_partition_that_was_taken_away_is_not_waited_for() -> None:
    landed, ownership = Landed(), Ownership()
    ownership.assign([("documents", 0)])
    run(
        landed,
        [a_refusal(1, 0, assignment=2)],
        [a_refusal(0, 0), an_end(0, 1)],
        ownership=ownership,
    )
    assert landed.windows == [[(0, 0), (0, 1)]]


def test_a_window_that_was_not_delivered_is_delivered_again_before_the_next() -> None:
    landed = Landed(failures=2)
    run(landed, [a_document(0, 0)], [a_document(0, 1)])
    assert landed.windows == [[(0, 0)], [(0, 1)]]


def test_after_a_window_that_is_given_up_none_is_delivered() -> None:
    landed = Landed(failures=1)
    with pytest.raises(TryAgainError):
        run(landed, [a_document(0, 0)], [a_document(0, 1)], giving_up=True)
    assert landed.windows == []


@pytest.mark.parametrize(("rival", "error"), [(True, FencedError), (False, TryAgainError)])
def test_a_daemon_that_the_group_has_fenced_may_start_again_unless_it_has_a_rival(
    rival: bool, error: type[EmbedstreamError]
) -> None:
    landed = Landed(rival=rival)
    with pytest.raises(error):
        run(landed, [a_document(0, 0)], fenced=True)
    assert not landed.windows


def looks(*answers: OutputLayout | EmbedstreamError) -> Callable[[], OutputLayout]:
    """What looking at the topics gives, one answer after the other."""
    left: Iterator[OutputLayout | EmbedstreamError] = iter(answers)

    def look() -> OutputLayout:
        answer = next(left)
        if isinstance(answer, EmbedstreamError):
            raise answer
        return answer

    return look


def test_a_window_waits_for_a_broker_that_tells_of_the_topics() -> None:
    landed = Landed()
    nobody = ServiceUnavailableError("no broker answers")
    run(landed, [a_document(0, 0)], layout=looks(nobody, nobody, LAYOUT))
    assert landed.windows == [[(0, 0)]]
    with pytest.raises(TryAgainError):
        run(landed, [a_document(0, 0)], layout=looks(nobody, LAYOUT), giving_up=True)
    assert len(landed.windows) == 1


def test_after_a_topic_was_made_again_nothing_is_delivered_nor_tried_again() -> None:
    landed = Landed()
    with pytest.raises(ConfigError):
        run(landed, [a_document(0, 0)], [a_document(0, 1)], layout=looks(LAYOUT, ConfigError("made again")))
    assert landed.windows == [[(0, 0)]]
    landed = Landed(failures=1)
    with pytest.raises(ConfigError):
        run(landed, [a_document(0, 0)], layout=looks(LAYOUT, ConfigError("made again"), LAYOUT))
    assert landed.windows == []
