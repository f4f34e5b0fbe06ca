"""How far a group is, as Kafka tells it; what its daemons have cost."""

from __future__ import annotations

import pytest

from embedstream.errors import ConfigError
from embedstream.group_progress import GroupProgress
from embedstream.kafka import make_producer
from embedstream.settings import KafkaSettings
from embedstream.spending import Spending
from embedstream.topic_sizes import sample_sizes
from tests.brokers import on_apache
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


def test_what_a_daemon_has_cost_survives_it_and_adds_up_over_the_group(topics: Topics) -> None:
    now = [0.0]
    group = topics.documents

    def of(instance: str | None, price: float = 0.0) -> Spending:
        return Spending(topics.kafka, group, instance, price, tokens=lambda: 1e6, clock=lambda: now[0])

    one, two = of("one", 3600.0), of("two", 7200.0)
    for each in (one, two):
        each.look()
    now[0] = 10.0
    assert one.dollars == pytest.approx(10.0)
    one.write()
    two.write()
    one.look()
    assert one.group_dollars == pytest.approx(30.0)
    assert one.group_tokens == pytest.approx(2e6)
    one.close()
    # Its next life, much later: what it did not write in between is not known.
    again = of("one", 3600.0)
    again.look()
    now[0] = 15.0
    assert again.dollars == pytest.approx(15.0)
    assert again.group_dollars == pytest.approx(35.0)
    reader = of(None)
    reader.look()
    assert reader.group_dollars == pytest.approx(30.0)
    for each in (two, again, reader):
        each.close()


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
