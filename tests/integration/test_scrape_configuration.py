"""The configurations that are shipped for Prometheus and Alertmanager, in those programs themselves."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from embedstream.fleet.discovery import make_server
from embedstream.metrics import Metrics
from embedstream.metrics_server import serve
from embedstream.settings import MetricsSettings
from tests.brokers import REPOSITORY, free_ports
from tests.kafka import wait_until
from tests.monitoring import Prometheus, needed
from tests.runpod import FakeRunPod
from tests.unit.embedstream.fleet.fleets import a_fleet, a_spec, choices, environment

pytestmark = pytest.mark.slow

TOKEN = "t0ken-of-the-test"
DEPLOY = REPOSITORY / "deploy"


class ShippedPrometheus(Prometheus):
    """Prometheus with the configuration that is shipped, but for other ports, and sooner."""

    def __init__(self, folder: Path, ports: Mapping[int, int], in_file: int) -> None:
        """Writes the files down.

        Args:
            folder: For them.
            ports: For each that is shipped, another.
            in_file: The port of a daemon that the file for discovery names.
        """
        super(Prometheus, self).__init__(folder, "prometheus")
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        for shipped, here in ports.items():
            assert f":{shipped}" in text
            text = text.replace(f":{shipped}", f":{here}")
        text = text.replace("_interval: 15s", "_interval: 1s").replace("_interval: 30s", "_interval: 1s")
        (folder / "prometheus.yml").write_text(text)
        (folder / "token").write_text(TOKEN)
        for name in ("recording.rules.yml", "alerts.rules.yml"):
            shutil.copy(DEPLOY / "prometheus" / name, folder)
        (folder / "targets").mkdir()
        example = (DEPLOY / "prometheus" / "targets" / "example.json").read_text()
        (folder / "targets" / "daemons.json").write_text(example.replace("9400", str(in_file)))

    def targets(self, count: int) -> list[dict[str, Any]] | None:
        """What it scrapes, once that are so many."""
        found: list[dict[str, Any]] = self.ask("/api/v1/targets", state="active")["data"]["activeTargets"]
        return found if len(found) == count else None


def test_the_scrape_configuration_finds_daemons_in_all_three_ways(tmp_path: Path) -> None:
    """With the files as they are shipped, but for the ports."""
    daemon, in_file, producer, nobody = free_ports(4)
    for role, port in (("consumer", daemon), ("consumer", in_file), ("producer", producer)):
        serve(Metrics(role), MetricsSettings(port=port, token=TOKEN))  # type: ignore[arg-type]
    api = FakeRunPod()
    fleet, spec = a_fleet(api, tmp_path), a_spec(1)
    fleet.ledger.ask_for(spec)
    fleet.raise_pods(spec, choices(fleet, spec), environment(spec))
    api.sleep(65.0)
    discovery = make_server(fleet, "127.0.0.1", 0)
    threading.Thread(target=discovery.serve_forever, daemon=True).start()
    ports = {9400: daemon, 9401: producer, 9410: discovery.server_port, 9093: nobody}
    with ShippedPrometheus(tmp_path / "prometheus", ports, in_file) as prometheus:
        found = wait_until(lambda: prometheus.targets(5), 60, "five targets")
        pods = "pod0000x-9400.proxy.runpod.net:443"
        assert {(each["labels"]["job"], each["labels"]["instance"]) for each in found} == {
            ("embedstream", f"127.0.0.1:{daemon}"),
            ("embedstream", f"127.0.0.1:{in_file}"),
            ("embedstream", pods),
            ("embedstream-fleet", f"127.0.0.1:{discovery.server_port}"),
            ("producer", f"127.0.0.1:{producer}"),
        }
        (pod,) = [each for each in found if each["labels"]["instance"] == pods]
        assert pod["scrapeUrl"] == f"https://{pods}/metrics"
        assert pod["labels"]["instance_id"] == "job-0"
        # The token opens all of them; what a pod is called is told by the fleet.
        wait_until(lambda: prometheus.value('sum(up{instance=~"127.*"})') == 4, 60, "all are scraped")
        assert prometheus.value('sum(embedstream_fleet_pods{status="RUNNING"})') == 1
    discovery.shutdown()
    discovery.server_close()


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=page"], "webhook,mail"),
        (["severity=warn"], "mail"),
        (["severity=none", "alertname=EmbedstreamDeadMansSwitch"], "dead-mans-switch"),
    ],
)
def test_pages_go_to_the_webhook_and_everything_by_mail(labels: list[str], receivers: str) -> None:
    config = REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml"
    command = [needed("amtool"), "config", "routes", "test", f"--config.file={config}", *labels]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == receivers
