from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from embedstream.errors import ConfigError
from embedstream.fleet.discovery import make_server
from tests.runpod import FakeRunPod
from tests.unit.embedstream.fleet.fleets import RTX_4090, a_fleet, a_spec, choices, environment


@pytest.fixture
def api() -> FakeRunPod:
    return FakeRunPod()


@pytest.fixture
def address(api: FakeRunPod, tmp_path: Path) -> Iterator[str]:
    """Of a server over a fleet of two pods, of which one runs."""
    fleet = a_fleet(api, tmp_path)
    for pods in (1, 2):
        spec = a_spec(pods)
        fleet.ledger.ask_for(spec)
        fleet.raise_pods(spec, choices(fleet, spec), environment(spec))
        api.sleep(65.0 if pods == 1 else 1.0)
    server = make_server(fleet, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_prometheus_is_told_of_the_pods_that_run(address: str) -> None:
    answer = httpx.get(f"{address}/")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {
            "targets": ["pod0000x-9400.proxy.runpod.net:443"],
            "labels": {
                "__scheme__": "https",
                "fleet": "job",
                "instance_id": "job-0",
                "pod": "pod0000x",
                "gpu": RTX_4090,
            },
        }
    ]


def test_the_fleets_own_metrics_are_dollars_and_pods(address: str, api: FakeRunPod) -> None:
    text = httpx.get(f"{address}/metrics").text
    assert 'embedstream_fleet_pods{fleet="job",status="RUNNING"} 1.0' in text
    assert 'embedstream_fleet_pods{fleet="job",status="PROVISIONING"} 1.0' in text
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(told['embedstream_fleet_price_dollars_per_hour{fleet="job"}']) == pytest.approx(0.68)
    assert float(told['embedstream_fleet_cost_dollars{fleet="job"}']) == pytest.approx(api.dollars, rel=0.1)


def test_who_asks_again_at_once_is_told_the_same_without_a_look(address: str, api: FakeRunPod) -> None:
    httpx.get(f"{address}/")
    asked = len(api.requests)
    assert [httpx.get(f"{address}/{path}").status_code for path in ("", "metrics")] == [200, 200]
    assert len(api.requests) == asked


def test_an_api_that_is_away_is_no_empty_list(address: str, api: FakeRunPod) -> None:
    api.faults = [("*", "500")] * 50
    assert httpx.get(f"{address}/").status_code == 503
    assert httpx.get(f"{address}/elsewhere").status_code == 404


def test_a_port_in_use_is_one_line(address: str, api: FakeRunPod, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be listened on"):
        make_server(a_fleet(api, tmp_path, "other"), "127.0.0.1", int(address.rpartition(":")[2]))
