from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from embedstream.errors import ConfigError
from embedstream.metrics import Metrics, serve
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
