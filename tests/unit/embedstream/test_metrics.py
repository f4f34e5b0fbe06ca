from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedstream import metrics_server
from embedstream.errors import ConfigError
from embedstream.metrics import Metrics, Role
from embedstream.metrics_server import Page, serve
from embedstream.settings import MetricsSettings
from tests.brokers import free_ports


def get(port: int, path: str) -> tuple[int, str | None, bytes]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_pages_are_served_beside_the_metrics_with_200_or_503() -> None:
    (port,) = free_ports(1)
    well = True

    def page() -> tuple[bool, Mapping[str, Any]]:
        return well, {"failed": [] if well else ["polling"]}

    metrics = Metrics()
    metrics.passages_total.inc(7)
    serve(metrics, MetricsSettings(port=port), {"/healthz": page})
    status, kind, body = get(port, "/healthz")
    assert (status, kind, json.loads(body)) == (200, "application/json", {"failed": []})
    well = False
    status, _, body = get(port, "/healthz?verbose=1")
    assert (status, json.loads(body)) == (503, {"failed": ["polling"]})
    assert get(port, "/metrics")[0] == 200
    assert b"embedstream_passages_total 7.0" in get(port, "/metrics")[2]


def test_a_port_that_is_taken_is_named_with_the_mend() -> None:
    (port,) = free_ports(1)
    serve(Metrics(), MetricsSettings(port=port))
    with pytest.raises(ConfigError, match=r"metrics.port .* --metrics-port"):
        serve(Metrics(), MetricsSettings(port=port))


def asked(port: int, path: str, authorization: str | None = None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if authorization is not None:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("role", ["consumer", "producer"])
def test_metrics_ask_for_the_token_count_who_lacks_it_and_health_pages_do_not(role: Role) -> None:
    (port,) = free_ports(1)
    metrics = Metrics(role)
    pages: dict[str, Page] = {"/healthz": lambda: (True, {})}
    serve(metrics, MetricsSettings(port=port, token="s3cret"), pages)
    assert asked(port, "/metrics") == 401
    for wrong in ("Bearer other", "Bearer", "s3cret", "Basic s3cret", "Bearer s3cret ", "Bearer s3cr\u00e9t"):
        assert asked(port, "/metrics", wrong) == (401 if wrong.strip() != "Bearer s3cret" else 200)
    assert asked(port, "/anything") == 401
    assert asked(port, "/metrics", "Bearer s3cret") == 200
    assert asked(port, "/healthz") == 200
    count = metrics.registry.get_sample_value
    assert count("embedstream_metrics_refused_total", {"reason": "missing"}) == 2
    assert count("embedstream_metrics_refused_total", {"reason": "wrong"}) == 5


def test_a_topic_s_name_of_200_characters_is_a_label_as_it_is() -> None:
    (port,) = free_ports(1)
    metrics, topic = Metrics(), "t" * 198 + '"\\'
    metrics.consumer_lag_records.labels(group="g", topic=topic, partition=0).set(7)
    metrics.consumer_info.info({"group": "g", "topic": topic})
    serve(metrics, MetricsSettings(port=port))
    _, _, body = get(port, "/metrics")
    found = {each.name: each for each in text_string_to_metric_families(body.decode())}
    (sample,) = found["embedstream_consumer_lag_records"].samples
    assert (sample.labels["topic"], sample.value) == (topic, 7)


def test_an_address_of_ipv6_is_listened_on() -> None:
    (port,) = free_ports(1)
    serve(Metrics(), MetricsSettings(host="::1", port=port))
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=30) as answer:
        assert answer.status == 200


def test_who_connects_and_says_nothing_is_let_go_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    serve(Metrics(), MetricsSettings(port=port))
    with monkeypatch.context() as patch:
        patch.setattr(metrics_server._Handler, "timeout", 0.2)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b""
    assert get(port, "/metrics")[0] == 200
    assert "Traceback" not in capfd.readouterr().err
