"""`/metrics` answers whatever the daemon is at: loading, joining, losing partitions, leaving."""

from __future__ import annotations

import signal
import threading
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from embedstream.metrics import PREFIX, Metrics, declared
from embedstream.scrape import scrape
from tests.brokers import free_ports, on_apache
from tests.consuming import committed, documents, send
from tests.daemons import Daemons
from tests.kafka import Topics, wait_until


class Scraper:
    """Scrapes without a pause; a context manager.

    Attributes:
        answers: How many were whole.
        rebalances: The newest count.
        has_model: For each answer, whether it told a model.
        errors: Answers that were no metrics.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers = 0
        self.rebalances = 0.0
        self.has_model: list[bool] = []
        self.errors: list[str] = []

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                with urllib.request.urlopen(self._url, timeout=10) as answer:
                    text = answer.read().decode()
            except ConnectionResetError as error:
                self.errors.append(repr(error))
                continue
            except OSError:
                continue  # nothing listens yet, or any more
            try:
                samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
            except ValueError as error:
                self.errors.append(f"{error}: {text[:200]}")
                continue
            self.answers += 1
            loaded = any(s.name == PREFIX + "model_info" and "model" in s.labels for s in samples)
            self.has_model.append(loaded)
            self.rebalances = sum(s.value for s in samples if s.name == PREFIX + "rebalances_total")


@on_apache
def test_a_scrape_during_start_up_a_rebalance_and_shutdown_is_whole(topics: Topics, daemons: Daemons) -> None:
    (port,) = free_ports(1)
    env = {"EMBEDSTREAM_METRICS__PROGRESS_SECONDS": "0.1"}
    with Scraper(port) as scraper:
        flags = ("--metrics-port", str(port), "--instance-id", "one", "--price-per-hour", "1")
        one = daemons.start(topics, *flags, env=env, load_seconds=1.0)
        wait_until(lambda: scraper.rebalances >= 1, 60, "it does not join")
        assert not scraper.has_model[0], "it was scraped while it loaded its model"
        send(topics, documents(60))
        two = daemons.start(topics, "--instance-id", "two")
        wait_until(lambda: two.events("partitions_assigned"), 60, "the second does not join")
        wait_until(lambda: sum(committed(topics).values()) == 60, 60, "all is committed")
        seen = scraper.answers
        wait_until(lambda: scraper.answers > seen + 5, 30, "no scrape after the rebalance")
        one.process.send_signal(signal.SIGTERM)
        assert one.wait(30) == 0
    assert scraper.answers > 10
    assert scraper.has_model[-1]
    # The process ends at once when all is delivered, which may cut one answer short.
    assert len(scraper.errors) <= 1, scraper.errors


@on_apache
def test_a_replay_exports_the_same_for_its_own_group(topics: Topics, daemons: Daemons) -> None:
    (port,) = free_ports(1)
    send(topics, documents(20))
    output = f"{topics.embeddings}-again"
    daemons.replay(topics, output, "--metrics-port", str(port), "--price-per-hour", "1")
    url = f"http://127.0.0.1:{port}/metrics"
    done = {"stage": "deliver", "result": "ok"}
    wait_until(lambda: scrape(url, None).value("embedstream_records_total", **done) == 20, 60, "embedded")
    wait_until(lambda: scrape(url, None).value("embedstream_job_progress_ratio") == 1, 30, "told")
    told = scrape(url, None)
    assert told.labels("embedstream_consumer_info")["group"] == f"embedstream-replay-{output}"
    assert told.labels("embedstream_model_info")["model"] == "hash"
    assert told.value("embedstream_price_dollars_per_hour") == 1
    for row in (Metrics.consumer_info, Metrics.model_info, Metrics.build_info):
        assert set(row.labels) <= set(told.labels(PREFIX + row.name)), row.name
    names = {name for name, _, _ in told.samples}
    of_all = [each.name for each in declared() if "consumer" in each.roles]
    missing = [each for each in of_all if not any(name.startswith(PREFIX + each) for name in names)]
    # That has a series for each partition in which records expired.
    assert missing == ["expired_records_total"]
