"""How far a group is, as Kafka tells it; what its daemons have cost."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from embedstream.errors import ConfigError
from embedstream.group_progress import GroupProgress
from embedstream.kafka import make_producer
from embedstream.settings import KafkaSettings
from embedstream.spending import SPENDING_TOPIC, WRITE_SECONDS, Spending
from embedstream.topic_sizes import sample_sizes
from tests.brokers import free_ports, on_apache
from tests.consuming import committed, documents, send
from tests.daemons import Daemons, verified
from tests.kafka import Topics


def fill(topics: Topics, sizes: list[int], partition: int = 0) -> None:
    producer = make_producer(topics.kafka, batch_size=20_000)
    for size in sizes:
        producer.produce(topics.documents, b"x" * size, b"key", partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def commit(topics: Topics, group: str, offsets: dict[int, int]) -> None:
    from confluent_kafka import TopicPartition

    from embedstream.offsets import GroupOffsets

    with GroupOffsets(topics.kafka, group) as own:
        own.write([TopicPartition(topics.documents, p, offset) for p, offset in offsets.items()])


def test_a_sample_of_a_topic_sorted_by_size_tells_where_its_bytes_are(topics: Topics) -> None:
    sizes = [50 + number for number in range(4000)]
    fill(topics, sizes)
    profile = sample_sizes(topics.kafka, topics.documents, {0: (0, 4000), 1: (0, 0)})
    assert profile.total == pytest.approx(sum(sizes), rel=0.02)
    for offset in (500, 2000, 3500):
        assert profile.done({0: offset})[0] == pytest.approx(sum(sizes[:offset]), rel=0.05)
    # A small topic is read whole.
    assert sample_sizes(topics.kafka, topics.documents, {0: (0, 10)}).total == sum(sizes[:10])


def test_ends_are_frozen_until_the_job_is_done_and_then_the_next_begins(topics: Topics) -> None:
    fill(topics, [100] * 80)
    clock = iter(range(0, 1000, 10))
    group = topics.documents
    with GroupProgress(topics.kafka, group, clock=lambda: float(next(clock))) as progress:
        first = progress.look()
        assert first.estimate.ratio == 0
        assert first.targets == {0: 80, 1: 0, 2: 0}
        assert sum(first.lag.values()) == 80
        fill(topics, [100] * 80)
        commit(topics, group, {0: 40})
        half = progress.look()
        assert half.targets == first.targets
        assert half.estimate.ratio == pytest.approx(0.5)
        assert sum(half.lag.values()) == 120
        commit(topics, group, {0: 60})
        told = progress.look()
        assert told.estimate.ratio == pytest.approx(0.75)
        assert told.estimate.likely is not None
        assert told.estimate.likely > 0
        commit(topics, group, {0: 80})
        # All that was there when it began is done, and there is more: the next job.
        after = progress.look()
        assert after.targets == {0: 160, 1: 0, 2: 0}
        assert after.estimate.ratio == pytest.approx(0.5)
        assert after.job_began >= first.job_began


def test_a_topic_without_records_is_done_and_one_that_is_gone_is_named(topics: Topics) -> None:
    with GroupProgress(topics.kafka, topics.documents) as progress:
        told = progress.look()
        assert told.estimate.ratio == 1.0
        assert told.estimate.likely == 0.0
        assert sum(told.lag.values()) == 0
    kafka = KafkaSettings(bootstrap_servers=topics.bootstrap, documents_topic="no-such-topic")
    with GroupProgress(kafka, "g") as progress, pytest.raises(ConfigError, match="does not exist"):
        progress.look()


@pytest.mark.slow
def test_a_topic_that_grows_for_weeks_is_known_by_as_much_as_at_first(topics: Topics) -> None:
    group = topics.documents
    with GroupProgress(topics.kafka, group) as progress:
        for number in range(1, 4):
            fill(topics, [50 * number] * 100)
            told = progress.look()
            assert told.targets[0] == 100 * number
            assert told.estimate.total == pytest.approx(5000 * sum(range(1, number + 1)))
            commit(topics, group, {0: 100 * number})
            assert progress.look().estimate.ratio == 1.0
        # What is done is one stretch, however many jobs it was.
        fill(topics, [10] * 80)
        progress.look()
        assert progress._profile.strata[0][0].end == 300
        assert progress._profile.total == pytest.approx(30_000 + 800)


class Purse:
    """What daemons of one group have cost, with a clock that the test sets."""

    def __init__(self, topics: Topics) -> None:
        self.now = 0.0
        self._topics = topics

    def of(self, instance: str | None, price: float = 0.0) -> Spending:
        """One that has looked once."""
        kafka, group = self._topics.kafka, self._topics.documents
        made = Spending(kafka, group, instance, price, tokens=lambda: 1e6, clock=lambda: self.now)
        made.look()
        return made


@pytest.mark.slow
def test_what_a_daemon_has_cost_survives_it_and_adds_up_over_the_group(topics: Topics) -> None:
    purse = Purse(topics)
    one, two = purse.of("one", 3600.0), purse.of("two", 7200.0)
    one.look()
    purse.now = 10.0
    assert one.dollars == pytest.approx(10.0)
    # What the other has cost since it wrote is not waited for.
    assert one.group_dollars == pytest.approx(30.0, abs=0.1)
    assert one.price_per_hour == 10_800.0
    assert one.group_tokens == pytest.approx(2e6)
    two.close()
    one.look()
    # Two has ended, and costs no more.
    purse.now = 15.0
    assert one.group_dollars == pytest.approx(15.0 + 20.0)
    assert one.price_per_hour == 3600.0
    one.close()
    # Its next life, much later, costs nothing for the time in between.
    purse.now = 5000.0
    again = purse.of("one", 3600.0)
    assert again.dollars == pytest.approx(15.0)
    purse.now = 5005.0
    assert again.dollars == pytest.approx(20.0)
    assert again.group_dollars == pytest.approx(40.0)
    reader = purse.of(None)
    # The moments since it wrote are counted by the time of day, which the test does not set.
    assert 15.0 + 20.0 <= reader.group_dollars <= 15.0 + 20.0 + WRITE_SECONDS
    for each in (again, reader):
        each.close()


@pytest.mark.slow
def test_a_daemon_that_was_killed_costs_no_more_before_long(topics: Topics) -> None:
    purse = Purse(topics)
    one = purse.of("one", 3600.0)
    purse.of("killed", 3600.0)
    one.look()
    purse.now = 1000.0
    one.look()
    assert one.price_per_hour == 3600.0
    assert one.group_dollars == pytest.approx(1000.0 + WRITE_SECONDS)
    one.close()


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-5, 0.9])  # brokers refuse what is an hour ahead
def test_clocks_that_are_wrong_make_nobody_cheap_or_dear(topics: Topics, hours: float) -> None:
    purse = Purse(topics)
    one = purse.of("one", 3600.0)
    producer = make_producer(topics.kafka)
    value = json.dumps({"dollars": 7.0, "price_per_hour": 3600.0, "tokens": 1.0})
    written = int((time.time() + 3600 * hours) * 1000)
    producer.produce(SPENDING_TOPIC, value, json.dumps([topics.documents, "two"]), timestamp=written)
    assert producer.flush(30) == 0
    purse.now = 10.0
    one.look()
    assert one.price_per_hour == 7200.0
    # It wrote since the last look.
    assert 17.0 <= one.group_dollars <= 27.0
    purse.now = 20.0
    assert 37.0 <= one.group_dollars <= 47.0
    one.close()


def test_books_that_can_t_be_kept_do_not_end_the_count() -> None:
    now = 0.0
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}")

    class Slow(Spending):
        def _open(self) -> None:
            raise TimeoutError

    spending = Slow(kafka, "g", "one", 3600.0, clock=lambda: now)
    spending.look()
    now = 5.0
    assert spending.dollars == spending.group_dollars == 5.0
    spending.close()


@on_apache
def test_a_budget_stops_the_daemon_with_its_own_code_and_everything_delivered(
    topics: Topics, daemons: Daemons
) -> None:
    send(topics, documents(600))
    flags = ["--price-per-hour", "3600", "--budget", "15", "--window-seconds", "0.3"]
    daemon = daemons.start(topics, *flags, seconds=0.2, token_budget=256)
    assert daemon.wait(120) == 3, daemon.log
    assert "cost.budget 15 dollars is used up" in daemon.last_line
    assert "Traceback" not in daemon.log
    done = sum(committed(topics).values())
    assert 0 < done < 600
    # What was encoded by then: a window in delivery and one behind it.
    after = daemon.log.partition('"budget_used_up"')[2]
    assert after.count('"window_delivered"') <= 2
    assert verified(topics)
    # Started again by a supervisor, it ends at once: the money is gone.
    again = daemons.start(topics, *flags, load_seconds=200.0)
    assert again.wait(60) == 3, again.log
    assert sum(committed(topics).values()) == done
    more = daemons.start(topics, "--price-per-hour", "3600", "--budget", "10000", "--until-drained")
    assert more.wait(120) == 0, more.log
    assert verified(topics)


@on_apache
def test_a_budget_is_the_whole_group_s_and_what_the_others_cost_is_not_seen_late(
    topics: Topics, daemons: Daemons
) -> None:
    send(topics, documents(1500))
    flags = ["--price-per-hour", "3600", "--budget", "40", "--window-seconds", "0.3"]
    each = [
        daemons.start(topics, *flags, "--instance-id", name, seconds=0.2, token_budget=256) for name in "ab"
    ]
    assert [one.wait(120) for one in each] == [3, 3]
    assert verified(topics)
    with closing(Spending(topics.kafka, topics.documents)) as books:
        books.look()
        # Each tells the others every half minute; by then they would have cost half as much again.
        assert 40 <= books.group_dollars <= 52
