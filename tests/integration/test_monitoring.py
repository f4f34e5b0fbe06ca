"""The whole of monitoring on a real job: Kafka, a producer, two daemons, Prometheus and Alertmanager."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedstream.kafka import make_producer
from schemas.deletion import deletion_headers
from tests.brokers import REPOSITORY, BrokerHandle, free_ports
from tests.cli import run_cli, start_cli
from tests.consuming import committed
from tests.daemons import Daemon, Daemons, verified
from tests.kafka import Topics, make_topics, read_all, wait_until
from tests.monitoring import Alertmanager, Prometheus, Webhook, needed, rented_pods
from tests.oracle import decode
from tests.unit.deploy.test_dashboards import NAMES, dashboard, panels, rules

pytestmark = pytest.mark.slow

TOKEN = "t0ken-of-the-test"
DOCUMENTS, POISON = 150, 3
# Dollars an hour of each daemon: one a second.
PRICE = 3600.0
# What may show nothing on a machine without a GPU.
EMPTY_WITHOUT_A_GPU = {"GPU memory", "GPU use", "Share of the GPU's peak"}
ALERTS_ABOUT_A_GPU = {"EmbedstreamGpuIdleWhilePaying"}


@dataclass
class Scene:
    """What runs, and what the test knows of it."""

    topics: Topics
    ports: list[int]
    daemons: Daemons
    running: list[Daemon]
    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook
    started: float

    def start(self, number: int) -> Daemon:
        """A daemon; the second life of a number has its name and port."""
        return self.daemons.start(
            self.topics,
            *("--metrics-port", str(self.ports[number]), "--instance-id", f"daemon-{number}"),
            *("--price-per-hour", str(PRICE), "--budget", "1000000", "--window-seconds", "0.3"),
            env={"EMBEDSTREAM_METRICS__TOKEN": TOKEN, "EMBEDSTREAM_METRICS__PROGRESS_SECONDS": "0.5"},
            seconds=0.05,
            token_budget=512,
        )


def corpus(folder: Path) -> Path:
    """150 documents of about 300 words, two of them once more under another id, and one that is none."""
    lines = [
        json.dumps({"id": f"d{number}", "content": " ".join(f"word{number} n{each}." for each in range(150))})
        for number in range(DOCUMENTS)
    ]
    # Early, so that they are counted long before the producer ends.
    again = [lines[number].replace(f'"d{number}"', f'"again{number}"') for number in range(2)]
    lines[2:2] = [*again, "[]"]
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def scene(kafka_broker: BrokerHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A job that was run from its first record to its last, with everything still up."""
    needed("prometheus")
    needed("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("monitoring")
    topics, ports = make_topics(kafka_broker.bootstrap, prefix="t" * 180), free_ports(3)
    assert len(topics.documents) > 190
    with (
        Webhook() as webhook,
        Alertmanager(folder / "alertmanager", webhook) as alertmanager,
        rented_pods(folder) as rent,
        Prometheus(folder / "prometheus", alertmanager, ports, TOKEN, rent) as prometheus,
        Daemons(folder) as daemons,
    ):
        made = Scene(topics, ports, daemons, [], prometheus, alertmanager, webhook, time.monotonic())
        made.running = [made.start(0), made.start(1)]
        wait_until(lambda: prometheus.value("count(embedstream_consumer_info)") == 2, 60, "two are up")
        # A topic without records is done.
        wait_until(lambda: prometheus.value("min(embedstream_job_progress_ratio)") == 1, 30, "nothing to do")
        client = make_producer(topics.kafka)
        for number in range(POISON):
            client.produce(topics.documents, b"no Avro", b"key", partition=number)
        client.produce(topics.documents, None, b"gone", headers=deletion_headers(1), partition=0)  # type: ignore[arg-type]
        assert client.flush(30) == 0
        flags = [*topics.flags[:4], "--metrics-port", str(ports[2]), "--rate", "40KB"]
        producer = start_cli(
            *("produce", str(corpus(folder)), *flags),
            log=folder / "producer.log",
            env={"EMBEDSTREAM_METRICS__TOKEN": TOKEN},
        )
        assert producer.wait(120) == 0, (folder / "producer.log").read_text()
        total = DOCUMENTS + POISON + 1
        read = read_all(topics.bootstrap, topics.documents)
        assert len(read) == total
        wait_until(lambda: sum(committed(topics).values()) == total, 120, "all is committed")
        wait_until(
            lambda: prometheus.value('sum(embedstream_records_total{stage="deliver"})') == total,
            30,
            "scraped",
        )
        wait_until(lambda: prometheus.value("sum(embedstream:lag_records:sum)") == 0, 30, "no lag is told")
        yield made


def test_every_expression_of_both_dashboards_returns_data(scene: Scene) -> None:
    empty = set()
    for name in NAMES:
        for panel in panels(name):
            for query in panel["targets"]:
                if not scene.prometheus.query(filled(query["expr"], scene)):
                    empty.add(panel["title"])
    assert empty <= EMPTY_WITHOUT_A_GPU


def test_every_expression_of_all_rules_returns_data(scene: Scene) -> None:
    for rule in rules():
        if "record" in rule:
            assert scene.prometheus.query(rule["expr"]), rule["record"]
            assert scene.prometheus.query(rule["record"]), rule["record"]
        elif rule["alert"] not in ALERTS_ABOUT_A_GPU:
            # What an alert compares, whichever way that comes out; and what it makes an exception of.
            both = re.sub(r"(?<![!=])(==|[<>]=?)(?!~)", r"\1 bool", rule["expr"]).replace("unless", "and")
            assert scene.prometheus.query(both), both
    assert {
        each["labels"]["alertname"] for each in scene.prometheus.ask("/api/v1/alerts")["data"]["alerts"]
    } >= {"EmbedstreamDeadMansSwitch"}


def filled(expression: str, scene: Scene) -> str:
    """With the variables as Grafana fills them in for `All`."""
    for name, values in (
        ("$job", ["embedstream"]),
        ("$group", [scene.topics.documents]),
        ("$topic", [scene.topics.documents]),
        ("$instance", [f"127.0.0.1:{port}" for port in scene.ports]),
    ):
        expression = expression.replace(name, f"({'|'.join(map(re.escape, values))})".replace("\\", "\\\\"))
    return expression.replace("$__rate_interval", "2m")


def test_what_prometheus_says_is_what_the_topics_hold(scene: Scene) -> None:
    value, topics = scene.prometheus.value, scene.topics
    documents = read_all(topics.bootstrap, topics.documents)
    embeddings = [e.value() for e in read_all(topics.bootstrap, topics.embeddings) if e.value() is not None]
    vectors = [decode("embedding", each) for each in embeddings if each is not None]
    of_group = f'{{group="{topics.documents}", topic="{topics.documents}"}}'
    known = {
        'sum(embedstream_records_total{stage="deliver", result="ok"})': DOCUMENTS,
        'sum(embedstream_records_total{stage="deliver", result="deletion"})': 1,
        'sum(embedstream_dead_letters_total{reason="not_avro"})': POISON,
        "sum(embedstream_dead_letters_total)": len(read_all(topics.bootstrap, topics.dead_letters)),
        "sum(embedstream_passages_total)": len(vectors),
        "sum(embedstream_tokens_total)": sum(each["token_count"] for each in vectors),
        "sum(embedstream_input_bytes_total)": sum(len(each.value() or b"") for each in documents),
        f"embedstream:lag_records:sum{of_group}": 0,
        f"embedstream:progress:ratio{of_group}": 1,
        f"embedstream:consumers:count{of_group}": 2,
        f"embedstream:price_dollars_per_hour:sum{of_group}": 2 * PRICE,
        f"max(embedstream_job_time_left_seconds{of_group})": 0,
        "sum(embedstream_fleet_price_dollars_per_hour)": 2 * 0.34,
        "sum(embedstream_fleet_cost_dollars)": pytest.approx(2 * 0.34, rel=0.01),
        'sum(last_over_time(embedstream_documents_total{result="duplicate"}[1h]))': 2,
        'sum(last_over_time(embedstream_refused_documents_total{reason="not_an_object"}[1h]))': 1,
        f"max(sum by (instance) (embedstream_job_start_end_offset{of_group}))": len(documents),
    }
    assert {each: value(each) for each in known} == known
    sent = value('sum(last_over_time(embedstream_documents_total{result="sent"}[1h]))')
    assert sent is not None
    assert 0 < sent <= DOCUMENTS  # as it was last scraped
    dollars = value("sum(embedstream_cost_dollars_total)")
    assert dollars is not None
    # A dollar a second for each; they have been up since the job began, and not longer than the test.
    assert 10 < dollars <= 2 * (time.monotonic() - scene.started)
    assert value(f"max(embedstream_group_cost_dollars{of_group})") == pytest.approx(dollars, rel=0.5)


def test_without_the_token_there_are_no_metrics_and_the_attempt_is_counted(scene: Scene) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{scene.ports[0]}/metrics", timeout=10)
    wait_until(
        lambda: scene.prometheus.value('sum(embedstream_metrics_refused_total{reason="missing"})') == 1,
        20,
        "counted",
    )
    told = run_cli("status", *scene.topics.flags, "--daemon", f"127.0.0.1:{scene.ports[0]}", "--json")
    assert json.loads(told.stdout)["daemons"][0]["error"] == "the token is missing or wrong"


def test_status_tells_what_the_topics_hold(scene: Scene) -> None:
    flags = [*scene.topics.flags, "--group", scene.topics.documents]
    for port in scene.ports[:2]:
        flags += ["--daemon", f"127.0.0.1:{port}"]
    env = {"EMBEDSTREAM_METRICS__TOKEN": TOKEN}
    done = run_cli("status", *flags, "--json", env=env)
    told = json.loads(done.stdout)
    assert told["lag"]["total"] == 0
    assert len(told["members"]) == 2
    assert told["progress"]["ratio"] == 1
    assert told["progress"]["seconds_left"] == 0
    assert told["dead_letters"]["by_reason_of_live_daemons"] == {"not_avro": POISON}
    assert told["cost"]["price_per_hour"] == 2 * PRICE
    assert told["cost"]["dollars"] > 10
    assert told["cost"]["per_million_tokens"] > 0
    assert told["model"]["model"] == "hash"
    assert [each["error"] for each in told["daemons"]] == [None, None]
    plain = run_cli("status", *flags, env={**env, "COLUMNS": "80", "NO_COLOR": "1"})
    assert plain.returncode == 0, plain.stderr
    assert "\x1b" not in plain.stdout
    assert max(map(len, plain.stdout.splitlines())) <= 80
    assert "100.0%" in plain.stdout
    assert "3 not_avro" in plain.stdout


def test_an_alert_fires_when_a_daemon_is_stopped_and_resolves_when_it_is_back(scene: Scene) -> None:
    active = scene.alertmanager.active
    wait_until(lambda: "/alive" in scene.webhook.paths, 60, "the dead man's switch does not arrive")
    before = scene.prometheus.value(
        f'max(embedstream_cost_dollars_total{{instance="127.0.0.1:{scene.ports[0]}"}})'
    )
    assert before is not None
    # The producer has ended, which is no trouble of the daemons; its target is down all the same.
    gone = f'ALERTS{{alertname="EmbedstreamConsumerDown", instance="127.0.0.1:{scene.ports[0]}"}}'
    assert scene.prometheus.query(gone) == []
    scene.running[0].process.terminate()
    assert scene.running[0].wait() == 0
    wait_until(lambda: scene.prometheus.query(gone), 30, "Prometheus does not notice")
    wait_until(lambda: alert_of(scene), 30, "no alert arrives")
    assert "EmbedstreamConsumerDown" in active()
    annotations = [each for name in NAMES for each in dashboard(name)["annotations"]["list"]]
    for each in annotations:
        wait_until(lambda each=each: scene.prometheus.query(filled(each["expr"], scene)), 20, each["name"])  # type: ignore[misc]
    scene.running[0] = scene.start(0)
    wait_until(lambda: not scene.prometheus.query(gone), 60, "it is still down")
    wait_until(lambda: not alert_of(scene), 60, "the alert does not resolve")
    # A daemon's money goes on where its earlier life ended.
    after = f'max(embedstream_cost_dollars_total{{instance="127.0.0.1:{scene.ports[0]}"}})'
    wait_until(lambda: (scene.prometheus.value(after) or 0.0) > before, 30, "its money was forgotten")
    assert verified(scene.topics)


def alert_of(scene: Scene) -> bool:
    """Whether Alertmanager holds the alert about the first daemon."""
    alerts = scene.alertmanager.ask("/api/v2/alerts", active="true")
    wanted = ("EmbedstreamConsumerDown", f"127.0.0.1:{scene.ports[0]}")
    return any((each["labels"]["alertname"], each["labels"].get("instance")) == wanted for each in alerts)


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "rules", "recording.rules.yml", "alerts.rules.yml"],
        ["promtool", "test", "rules", "alerts_test.yml"],
        ["promtool", "check", "config", "--syntax-only", "prometheus.yml"],
        ["amtool", "check-config", "../alertmanager/alertmanager.yml"],
        ["amtool", "check-config", "../compose/alertmanager.yml"],
        ["promtool", "check", "config", "--syntax-only", "../compose/prometheus.yml"],
        ["docker-compose", "-f", "../compose/compose.yaml", "config", "--quiet"],
    ],
    ids=" ".join,
)
def test_what_is_shipped_is_valid(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    folder = REPOSITORY / "deploy" / "prometheus"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
