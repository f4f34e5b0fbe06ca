from __future__ import annotations

import pytest

from embedstream.errors import UsageError
from embedstream.metrics import Metrics
from embedstream.metrics_server import serve
from embedstream.scrape import scrape, url_of
from embedstream.settings import MetricsSettings
from tests.brokers import free_ports


def test_an_address_is_a_host_and_port_or_a_url() -> None:
    assert url_of("127.0.0.1:9400") == "http://127.0.0.1:9400/metrics"
    assert url_of("https://pod-9400.example.org") == "https://pod-9400.example.org/metrics"
    assert url_of("https://pod-9400.example.org/") == "https://pod-9400.example.org/metrics"
    assert url_of("http://a:1/other") == "http://a:1/other"
    for wrong in ("file:///etc/passwd", "ftp://a", "http://", "a b:1"):
        with pytest.raises(UsageError, match="--daemon"):
            url_of(wrong)


def test_a_daemon_tells_what_it_counts_to_who_knows_the_token() -> None:
    (port,) = free_ports(1)
    metrics = Metrics()
    metrics.passages_total.inc(7)
    metrics.dead_letters_total.labels(reason="empty").inc(2)
    serve(metrics, MetricsSettings(port=port, token="right"))
    url = url_of(f"127.0.0.1:{port}")
    told = scrape(url, "right")
    assert told.error is None
    assert told.value("embedstream_passages_total") == 7
    assert told.by("embedstream_dead_letters_total", "reason")["empty"] == 2
    assert told.value("embedstream_no_such_thing") is None
    for token in (None, "wrong"):
        assert scrape(url, token).error == "the token is missing or wrong"


def test_whatever_answers_or_does_not_is_told_in_a_few_words() -> None:
    (port,) = free_ports(1)
    assert scrape(f"http://127.0.0.1:{port}/metrics", None).error == "Connection refused"
    assert scrape("http://no-such-host.invalid:1/metrics", None).error
    serve(Metrics(), MetricsSettings(port=port), {"/metrics": lambda: (True, {"not": "metrics"})})
    assert scrape(f"http://127.0.0.1:{port}/metrics", None).error
