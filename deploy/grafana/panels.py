"""What a dashboard is made of, and how it becomes Grafana's JSON.

The three kinds of panels that are used need less code than builders of all that Grafana knows would, and no
further dependency.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Panel", "Query", "Row", "dashboard", "variable"]

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The version of the dashboard model of Grafana 10; later ones take it and bring it up to date themselves.
SCHEMA_VERSION = 38
OUTLASTS = " Stays as it was told last when the daemons have ended."
_SOURCE = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
    "current": {},
    "options": [],
}


@dataclass(frozen=True)
class Query:
    """One expression and what its series are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """A panel; units are Grafana's names.

    Attributes:
        most: Where a gauge's or a chart's axis ends.
        steps: Colours from values on, for what shows one value; Grafana's own would turn red at 80.
        unknown: What is shown instead of no value.
        outlasts: Whether the last value stays when the daemons have ended, as far back as the page looks.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["stat", "gauge", "timeseries"] = "timeseries"
    width: int = 8
    height: int = 8
    most: float | None = None
    decimals: int | None = None
    steps: tuple[tuple[float | None, str], ...] = ((None, "blue"),)
    unknown: str = "not known"
    outlasts: bool = False


@dataclass(frozen=True)
class Row:
    """A title and the panels below it, each placed as high as it goes, then as far to the left."""

    title: str
    panels: tuple[Panel, ...]


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice among a label's values; all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Iterable[Row],
    variables: Sequence[dict[str, Any]],
    annotations: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    """The JSON of a dashboard.

    Args:
        uid: Its stable name in URLs.
        title: Of the dashboard.
        description: What it answers.
        rows: From top to bottom.
        variables: Beside the data source.
        annotations: Name, expression and colour of what is marked on every chart.
    """
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        heights = [y + 1] * COLUMNS
        for panel in row.panels:
            panels.append(_panel(panel, len(panels) + 1, *_place(panel, heights)))
        y = max(heights)
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["embedstream"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_SOURCE, *variables]},
        "annotations": {"list": [_annotation(*each) for each in annotations]},
        "links": [
            {"type": "dashboards", "tags": ["embedstream"], "title": "embedstream", "asDropdown": True}
        ],
        "panels": panels,
    }


def _place(panel: Panel, heights: list[int]) -> tuple[int, int]:
    """Where a panel goes (x, y) above what fills each column so far; takes the room."""

    def top(x: int) -> int:
        return max(heights[x : x + panel.width])

    x = min(range(COLUMNS - panel.width + 1), key=top)
    y = top(x)
    heights[x : x + panel.width] = [y + panel.height] * panel.width
    return x, y


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    is_chart = panel.kind == "timeseries"
    if is_chart:
        defaults["custom"] = {"lineWidth": 2, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
        }
        defaults["noValue"] = panel.unknown
        unknown = {"match": "nan", "result": {"text": panel.unknown}}
        defaults["mappings"] = [{"type": "special", "options": unknown}]
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        if panel.kind == "stat":
            graph = "area" if panel.outlasts else "none"
            options |= {"colorMode": "value", "graphMode": graph, "textMode": "auto"}
    is_range = is_chart or panel.outlasts
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description + (OUTLASTS if panel.outlasts else ""),
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": not is_range,
                "range": is_range,
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def _annotation(name: str, expr: str, colour: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expr,
        "iconColor": colour,
        "step": "60s",
        "titleFormat": name,
        "textFormat": "{{instance}}",
    }
