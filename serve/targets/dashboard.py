"""A Grafana dashboard and a Prometheus job for the metrics of served models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..monitoring.families import AGE, BATCH_ROWS, HANDLER, PADDED, PHASE, REQUESTS

DASHBOARD, SCRAPE = "retort-dashboard.json", "retort-prometheus.yml"
_SCHEMA = 39
"""Version of the form of dashboards that Grafana 10.4 writes; later ones read it."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_MODEL = 'model=~"$model",version=~"$version"'
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2


@dataclass(frozen=True)
class _Panel:
    """A panel: queries with the names of their lines.

    Attributes:
        stacked: whether the lines are parts of a whole.
    """

    title: str
    about: str
    unit: str
    queries: Sequence[tuple[str, str]]
    stacked: bool = False


def _rate(sample: str, labels: str = _MODEL) -> str:
    return f"rate({sample}{{{labels}}}[$__rate_interval])"


def _quantiles(name: str, labels: str = _MODEL) -> list[tuple[str, str]]:
    buckets = f"sum by (le) ({_rate(f'{name}_bucket', labels)})"
    return [(f"p{share}", f"histogram_quantile(0.{share}, {buckets})") for share in (50, 90, 99)]


def _mean(name: str) -> str:
    return f"sum({_rate(f'{name}_sum')}) / sum({_rate(f'{name}_count')})"


_PREDICTIONS = f'{_MODEL},operation="predict"'
_FAILED = f'{_PREDICTIONS},status=~"5..|other"'
_PANELS = (
    _Panel(
        "Time of the handler",
        "What a request for a prediction takes in the worker, from its bytes to those of its answer, with its batch.",
        "s",
        _quantiles(HANDLER),
    ),
    _Panel("Time of the model", "One run of the model.", "s", _quantiles(PHASE, f'{_MODEL},phase="infer"')),
    _Panel(
        "Requests by outcome",
        "Answers to requests for predictions, by status. What TorchServe refuses by itself is in its Requests5XX.",
        "reqps",
        [("{{status}}", f"sum by (status) ({_rate(REQUESTS, _PREDICTIONS)}) > 0")],
        stacked=True,
    ),
    _Panel(
        "Failed requests",
        "Share of requests for predictions that got a status of 500 or more.",
        "percentunit",
        [("failed", f"sum({_rate(REQUESTS, _FAILED)}) / sum({_rate(REQUESTS, _PREDICTIONS)})")],
    ),
    _Panel(
        "Age of requests",
        "From the proxy's header x-request-start to the begin of the handler: the time in the queue.",
        "s",
        _quantiles(AGE),
    ),
    _Panel(
        "Time by phase",
        "Which share of the counted time each phase takes.",
        "percentunit",
        [
            (
                "{{phase}}",
                f"sum by (phase) ({_rate(f'{PHASE}_sum')}) / scalar(sum({_rate(f'{PHASE}_sum')}))",
            )
        ],
        stacked=True,
    ),
    _Panel(
        "Rows per batch",
        "Rows of requests in one run of the model.",
        "short",
        [("mean", _mean(BATCH_ROWS)), *_quantiles(BATCH_ROWS)],
    ),
    _Panel("Padding", "Share of the rows of a run that pad it to a bucket.", "percentunit", [("mean", _mean(PADDED))]),
)


def dashboard() -> str:
    """The JSON of the dashboard, for Grafana 10 or newer; it asks for its data source."""
    value = {
        "uid": "retort-serving",
        "title": "Retort: served models",
        "tags": ["retort"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source(), _variable("model"), _variable("version", '{model=~"$model"}')]},
        "panels": [_panel(index, panel) for index, panel in enumerate(_PANELS)],
    }
    return json.dumps(value, indent=1) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(label: str, where: str = "") -> dict[str, Any]:
    query = f"label_values({REQUESTS}{where}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _panel(index: int, panel: _Panel) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    custom = {"drawStyle": "line", "fillOpacity": 30 if panel.stacked else 0, "showPoints": "never"}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": name, "range": True}
        for number, (name, query) in enumerate(panel.queries)
    ]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": _WIDTH * column, "y": _HEIGHT * row},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {**custom, "stacking": stacking}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }


def scrape_job(port: int) -> str:
    """A job for the ``scrape_configs`` of Prometheus on the same machine.

    Args:
        port: port of the metrics on 127.0.0.1.
    """
    return (
        "# Written by `retort deploy`: merge it into prometheus.yml.\n"
        "scrape_configs:\n"
        "  - job_name: retort\n"
        "    scrape_interval: 15s\n"
        "    static_configs:\n"
        f'      - targets: ["127.0.0.1:{port}"]\n'
    )
