"""Rules of our own for the dashboards, since Grafana takes almost any JSON."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import FOLDER, rendered
from embedstream.metrics import PREFIX, declared
from tests.brokers import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
NAMES = ("job.json", "fleet.json")
# The contract.
ALERTS = """
Stalled NoConsumers LagGrowing EtaBeyondDeadline DeadLetterRatioHigh GpuIdleWhilePaying BudgetExceeded
PodFlapping DeadMansSwitch
"""
# What Prometheus and the client library tell of every process.
STANDARD = {"up", "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def dashboard(name: str) -> dict[str, Any]:
    found = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [each for each in dashboard(name)["panels"] if each["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(PROMETHEUS.glob("*.rules.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    found = [query["expr"] for name in NAMES for panel in panels(name) for query in panel["targets"]]
    found += [each["expr"] for name in NAMES for each in dashboard(name)["annotations"]["list"]]
    return [*found, *(rule["expr"] for rule in rules())]


def test_what_is_committed_is_what_the_source_makes() -> None:
    for name, text in rendered().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, "python -m deploy.grafana.generate"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_title_a_description_a_unit_and_the_source_that_is_chosen(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(titles) == len(set(titles))
    for panel in panels(name):
        assert panel["title"]
        assert len(panel["description"]) > 5, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for each in (panel, *panel["targets"]):
            assert each["datasource"]["uid"] == "${datasource}", panel["title"]
        for query in panel["targets"]:
            assert query["legendFormat"], panel["title"]
    variables = [each["name"] for each in dashboard(name)["templating"]["list"]]
    assert variables[:4] == ["datasource", "job", "group", "topic"]
    assert ("instance" in variables) == (name == "fleet.json")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_or_leaves_the_page(name: str) -> None:
    places = [(each["title"], each["gridPos"]) for each in dashboard(name)["panels"]]
    for title, place in places:
        assert place["x"] >= 0, title
        assert place["x"] + place["w"] <= 24, title
        assert place["h"] > 0, title
    for (one, a), (other, b) in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one!r} and {other!r} overlap"
    ids = [each["id"] for each in dashboard(name)["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_full_so_that_the_page_is_as_it_is_written(name: str) -> None:
    # Grafana moves panels up into holes.
    cells = {
        (x, y)
        for place in (each["gridPos"] for each in dashboard(name)["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }
    height = 1 + max(y for _, y in cells)
    assert cells == set(itertools.product(range(24), range(height)))


@pytest.mark.parametrize("name", NAMES)
def test_what_shows_one_value_has_colours_of_its_own_and_words_for_none(name: str) -> None:
    for panel in panels(name):
        if panel["type"] == "timeseries":
            continue
        told = panel["fieldConfig"]["defaults"]
        steps = [each["value"] for each in told["thresholds"]["steps"]]
        assert steps[0] is None, panel["title"]
        assert steps[1:] == sorted(steps[1:]), panel["title"]
        assert told["noValue"], panel["title"]
        assert told["mappings"][0]["options"]["result"]["text"] == told["noValue"]


def test_every_variable_that_is_used_exists() -> None:
    for name in NAMES:
        known = {each["name"] for each in dashboard(name)["templating"]["list"]} | {"__rate_interval"}
        text = json.dumps(dashboard(name))
        used = set(re.findall(r"\$\{?([a-zA-Z_]+)\}?", text)) - {"__all"}
        assert used <= known


def test_only_metrics_that_are_declared_or_recorded_are_asked_for() -> None:
    known = {PREFIX + each.name for each in declared()} | STANDARD
    histograms = {PREFIX + each.name for each in declared() if each.kind.__name__ == "Histogram"}
    known |= {f"{name}_{part}" for name in histograms for part in ("sum", "count", "bucket")}
    known |= {rule["record"] for rule in rules() if "record" in rule}
    for expression in expressions():
        asked = set(re.findall(r"\b(?:embedstream|process)[a-zA-Z0-9_:]+|\bup\b", expression))
        # Names of scrape jobs are no metrics.
        assert asked - {"embedstream"} <= known, expression


def test_nothing_is_made_to_look_well() -> None:
    for expression in expressions():
        assert "vector(0)" not in expression.replace(" ", "")
        assert not re.search(r"\bor\b\s+\d", expression)


def test_every_alert_has_a_chapter_of_the_runbook_and_a_test_firing_and_one_not() -> None:
    runbook = (PROMETHEUS / "runbook.md").read_text()
    chapters = set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert chapters == set(alerts)
    assert {f"Embedstream{name}" for name in ALERTS.split()} <= set(alerts)
    tested: dict[str, set[bool]] = {name: set() for name in alerts}
    for case in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for each in case.get("alert_rule_test", ()):
            tested[each["alertname"]].add(bool(each["exp_alerts"]))
    assert tested.pop("EmbedstreamDeadMansSwitch") == {True}
    assert all(each == {True, False} for each in tested.values()), tested
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("page", "warn", "none")
        assert rule["annotations"]["runbook"] == f"deploy/prometheus/runbook.md#{name.lower()}"
