"""The dashboard: Grafana can import it, and its queries name only what is counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from retort.serve.monitoring.families import FAMILIES
from retort.serve.targets.dashboard import dashboard

BOARD: dict[str, Any] = json.loads(dashboard())
WORDS = {"rate", "sum", "by", "histogram_quantile", "scalar", "label_values"}
LABELS = {"model", "version", "le"} | {name for family in FAMILIES for labels in family.series for name in labels}


def _queries() -> list[str]:
    variables = [item["query"]["query"] for item in BOARD["templating"]["list"] if item["type"] == "query"]
    return [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]] + variables


def test_every_query_names_only_samples_and_labels_that_are_counted() -> None:
    """Names, labels, phases, operations and functions in all queries exist; all that is counted is shown."""
    samples = {sample for family in FAMILIES for sample in family.samples}
    values = {value for family in FAMILIES for labels in family.series for value in labels.values()}
    for query in _queries():
        named = set(re.findall(r"\bretort_\w+", query))
        assert named
        assert named <= samples, query
        assert {value for _, value in re.findall(r'(phase|operation)="(\w+)"', query)} <= values
        bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", query)
        assert set(re.findall(r"\b[a-z_]+\b", bare)) <= samples | WORDS | LABELS, query
        assert all(query.count(a) == query.count(b) for a, b in ("()", "{}", "[]"))
    shown = " ".join(_queries())
    assert all(any(sample in shown for sample in family.samples) for family in FAMILIES)


def test_the_guide_names_all_that_is_counted() -> None:
    """The table of the guide has every family, with the labels that its series have."""
    guide = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "serve.md").read_text()
    for family in FAMILIES:
        labels = ", ".join(f"`{name}`" for name in family.series[0])
        assert f"| `{family.name}` | {labels}{' ' if labels else ''}| " in guide


def test_quantiles_sum_buckets_over_workers_and_models() -> None:
    """Each quantile is over the rate of buckets, summed by their bound alone."""
    form = re.compile(
        r"histogram_quantile\(0\.(50|90|99), sum by \(le\) \(rate\(retort_\w+_bucket\{.*\}\[\$__rate_interval\]\)\)\)"
    )
    quantiles = [query for query in _queries() if "histogram_quantile" in query]
    assert len(quantiles) == 12
    assert all(form.fullmatch(query) for query in quantiles)


def test_grafana_can_import_it() -> None:
    """It has what Grafana reads, unique ids, a data source that is asked for, and panels that do not overlap."""
    assert BOARD["schemaVersion"] >= 36
    assert BOARD.get("id") is None
    assert {"title", "uid", "panels", "templating", "time"} <= set(BOARD)
    first = BOARD["templating"]["list"][0]
    assert (first["type"], first["query"], first["name"]) == ("datasource", "prometheus", "datasource")
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids) == 8
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
