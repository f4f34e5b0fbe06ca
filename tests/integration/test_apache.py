"""The cluster that fault tests build on: its nodes die, freeze and come back with their data."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaException

from embedstream.kafka import make_admin, make_producer
from tests.brokers import ApacheCluster, NoKafkaError, find_kafka
from tests.kafka import make_topics, read_all


@pytest.mark.slow
def test_a_node_that_is_killed_comes_back_with_its_data(kafka_home: Path, tmp_path: Path) -> None:
    with ApacheCluster(kafka_home, tmp_path) as cluster:
        (node,) = cluster.nodes
        topics = make_topics(cluster.bootstrap, 2)
        producer = make_producer(topics.kafka)
        producer.produce(topics.documents, b"before", partition=1)
        assert producer.flush(30.0) == 0
        pid = node.pid
        assert pid is not None
        assert "java" in psutil.Process(pid).name()
        node.kill()
        assert not psutil.pid_exists(pid)
        node.start()
        cluster.wait_ready()
        assert [record.value() for record in read_all(cluster.bootstrap, topics.documents)] == [b"before"]
        node.pause()
        with pytest.raises(KafkaException):
            make_admin(topics.kafka).list_topics(timeout=1.0)
        node.resume()
        cluster.wait_ready()
        last = node.pid
        node.stop()
    assert last is not None
    assert not psutil.pid_exists(last)


@pytest.mark.slow
def test_three_nodes_replicate_and_outlive_one_of_them(kafka_home: Path, tmp_path: Path) -> None:
    with ApacheCluster(kafka_home, tmp_path, nodes=3) as cluster:
        topics = make_topics(cluster.bootstrap, 3)
        found = make_admin(topics.kafka).list_topics(timeout=10.0).topics[topics.documents]
        assert {len(partition.replicas) for partition in found.partitions.values()} == {3}
        cluster.nodes[0].kill()
        producer = make_producer(topics.kafka)
        for partition in range(3):
            producer.produce(topics.documents, b"after", partition=partition)
        assert producer.flush(60.0) == 0
        alive = ",".join(node.bootstrap for node in cluster.nodes[1:])
        assert len(read_all(alive, topics.documents)) == 3


def test_a_wrong_kafka_home_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(NoKafkaError, match=r"set KAFKA_HOME"):
        find_kafka()
