"""Dashboards of Grafana as data: panels that flow into rows, and the JSON that Grafana reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = 38
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "hx-gateway"
# What Grafana replaces in a query: an interval that holds at least four scrapes, and the time that is looked at.
RATE = "$__rate_interval"
RANGE = "$__range"
HERE = 'instance=~"$instance"'

Unit = Literal[
    "short", "none", "percentunit", "s", "bytes", "reqps", "ops", "wps", "currencyUSD", "dateTimeFromNow", "bool_on_off"
]
Threshold = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of PromQL and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What is drawn. ``thresholds`` are where a colour begins; green is below the first of them.

    ``values`` are words for numbers. A ``stat`` shows the last value, a ``timeseries`` all of them.
    """

    title: str
    queries: Sequence[Query]
    unit: Unit
    kind: Literal["stat", "timeseries"] = "timeseries"
    thresholds: Sequence[Threshold] = ()
    values: Sequence[tuple[int, str]] = ()
    about: str = ""
    stacked: bool = False
    base: str = "green"

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return (4, 4) if self.kind == "stat" else (8, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A page. ``uid`` stays the same for good: links and alerts of others name it."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]

    def document(self) -> dict[str, Any]:
        """Return what Grafana reads."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "links": [{"type": "dashboards", "title": "HX Gateway", "tags": [TAG], "asDropdown": True}],
            "templating": {"list": [_DATASOURCES, _INSTANCES]},
            "panels": list(_placed(self.rows)),
        }


_DATASOURCES = {
    "type": "datasource",
    "name": "datasource",
    "label": "Prometheus",
    "query": "prometheus",
    "refresh": 1,
}
_INSTANCES = {
    "type": "query",
    "name": "instance",
    "label": "Gateway",
    "datasource": DATASOURCE,
    "query": {"query": 'label_values(up{job="hx-gateway"}, instance)', "refId": "instance"},
    "refresh": 2,
    "sort": 1,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
}


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Give each panel a number and its place: from left to right, in lines as high as their highest."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top, left, high = top + 1, 0, 0
        for panel in row.panels:
            width, height = panel.size
            if left + width > COLUMNS:
                top, left, high = top + high, 0, 0
            number += 1
            place = {"x": left, "y": top, "w": width, "h": height}
            yield {"id": number, "gridPos": place, **_drawn(panel)}
            left, high = left + width, max(high, height)
        top += high


def _drawn(panel: Panel) -> dict[str, Any]:
    steps = [{"color": panel.base, "value": None}, *({"color": c, "value": v} for v, c in panel.thresholds)]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.values:
        words = {str(value): {"text": text, "index": index} for index, (value, text) in enumerate(panel.values)}
        defaults["mappings"] = [{"type": "value", "options": words}]
    options: dict[str, Any]
    if panel.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
        }
    else:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.thresholds else "off"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query.expr, "legendFormat": query.legend, "datasource": DATASOURCE}
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the rate of a counter at the gateways that are chosen, summed up, or by some labels."""
    matchers = ", ".join(part for part in (where, HERE) if part)
    return f"{_summed(by)}(rate({metric}{{{matchers}}}[{RATE}]))"


def grown(metric: str, by: str = "", where: str = "") -> str:
    """Return by how much a counter grew in the time that is looked at."""
    matchers = ", ".join(part for part in (where, HERE) if part)
    return f"{_summed(by)}(increase({metric}{{{matchers}}}[{RANGE}]))"


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """Return what ``share`` of the observations of a histogram stay below."""
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', f'{by}, le' if by else 'le', where)})"


def or_zero(expr: str) -> str:
    """Return ``expr``, or 0 while there are no series: for counters whose labels come with what they count."""
    return f"{expr} or vector(0)"


def now(how: str, gauge: str, by: str = "", where: str = "") -> str:
    """Return a gauge of the gateways that are chosen: their ``how`` (sum, min, max)."""
    matchers = ", ".join(part for part in (where, HERE) if part)
    return f"{how}{f' by ({by}) ' if by else ''}({gauge}{{{matchers}}})"


def _summed(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
