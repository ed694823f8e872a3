"""Rules, alerts, dashboards and runbooks name what there is, and each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hx_gateway.telemetry import Metrics
from tests.contract.doc_pages import DOCS, ROOT, blocks, read, rows, spans
from tests.fixtures.gateway import ADMIN_KEY
from tests.fixtures.monitoring import (
    CONFIG,
    DASHBOARDS,
    FOLDER,
    RULE_TESTS,
    RULES,
    alerts,
    expressions,
    groupings,
    load_yaml,
    panels,
    recorded,
    rules,
    selectors,
)
from tests.fixtures.prometheus import needs_prometheus

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_PROMETHEUS = {"instance", "job", "le", "alertname", "alertstate"}
HEADINGS = ["## What it means", "## See it", "## Fix it", "## Prove that it is fixed"]
PAGES_OF_ALERTS = {path.stem: path for path in (DOCS / "runbooks").glob("Hx*.md")}
COMMAND = re.compile(r"`?hx-gateway ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)")


def series() -> dict[str, set[str]]:
    """Return the labels of each name that a scrape has."""
    return {
        metric._name + suffix: set(metric._labelnames)
        for metric in vars(Metrics()).values()
        if hasattr(metric, "_labelnames")
        for suffix in SUFFIXES[metric._type]
    }


SERIES = series()


# Metrics


@pytest.mark.parametrize("expr", sorted(set(expressions())))
def test_an_expression_names_metrics_and_labels_that_there_are(expr: str) -> None:
    known = SERIES.keys() | recorded() | {"up", "ALERTS"}
    found = selectors(expr)
    assert found, expr
    assert {selector.metric for selector in found} - known == set()
    of_all: set[str] = set()
    for selector in found:
        labels = SERIES.get(selector.metric, {"upstream"}) | OF_PROMETHEUS
        assert selector.labels - labels == set(), selector
        of_all |= labels
    assert groupings(expr) - of_all == set()


def test_every_metric_of_the_gateway_is_drawn_or_watched() -> None:
    named = {selector.metric for expr in expressions() for selector in selectors(expr)}
    assert {name for name in SERIES if not name.endswith(("_sum", "_count"))} - named == set()


# Dashboards


def test_the_dashboards_are_what_the_script_writes() -> None:
    command = [sys.executable, "-m", "scripts.dashboards", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_dashboards_keep_their_ids_and_their_panels_have_units_and_legends() -> None:
    documents = [json.loads(path.read_text()) for path in DASHBOARDS]
    uids = {path.stem: document["uid"] for path, document in zip(DASHBOARDS, documents, strict=True)}
    assert uids == {name: f"hx-{name}" for name in ("ingestion", "overview", "registry", "spend", "upstreams")}
    for document in documents:
        assert document["templating"]["list"][0]["type"] == "datasource"
        drawn = [panel for panel in document["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
        for panel in drawn:
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["legendFormat"] for target in panel["targets"])
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_a_legend_names_labels_that_its_series_have() -> None:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                kept = groupings(target["expr"]) or {"instance", "upstream"}
                assert named <= kept, (path.stem, panel["title"])


def test_provisioning_names_a_folder_and_a_datasource() -> None:
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = load_yaml(provisioning / "datasources" / "hx-gateway.yml")["datasources"]
    (provider,) = load_yaml(provisioning / "dashboards" / "hx-gateway.yml")["providers"]
    assert (source["type"], provider["type"]) == ("prometheus", "file")
    assert load_yaml(CONFIG)["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]
    assert provider["options"]["path"] in read("howto/monitor.md")


# Alerts


def promtool(*arguments: str | Path) -> str:
    """Return what it says. Raises ``AssertionError`` with that if it finds something wrong."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    key = tmp_path / "hx-gateway.key"
    key.write_text(ADMIN_KEY)
    config = load_yaml(CONFIG)
    shipped = config["scrape_configs"][0]["authorization"]["credentials_file"]
    text = CONFIG.read_text().replace(shipped, str(key)).replace("rules/*.yml", f"{FOLDER}/rules/*.yml")
    (tmp_path / "prometheus.yml").write_text(text)
    told = promtool("check", "config", tmp_path / "prometheus.yml")
    assert f"{len(RULES)} rule files found" in told
    promtool("check", "rules", "--lint-fatal", *RULES)


@needs_prometheus
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", *RULE_TESTS)


def test_each_alert_has_a_test_in_which_it_fires_and_does_not() -> None:
    seen: dict[str, list[bool]] = {}
    for path in RULE_TESTS:
        for case in load_yaml(path)["tests"]:
            for asked in case["promql_expr_test"]:
                assert f'alertname="{case["name"]}"' in asked["expr"]
                seen.setdefault(case["name"], []).append(bool(asked.get("exp_samples")))
    assert seen.keys() == alerts().keys()
    assert {name: fires for name, fires in seen.items() if set(fires) != {False, True}} == {}


def test_alerts_say_how_bad_what_and_where_to_read_on() -> None:
    assert len(alerts()) == len([rule for rule in rules() if "alert" in rule])
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"https://docs.example.org/runbooks/{name}.md"


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_speaks_of_labels_that_its_series_have(name: str) -> None:
    alert = alerts()[name]
    labels = {label for selector in selectors(alert["expr"]) for label in SERIES.get(selector.metric, {"upstream"})}
    kept = groupings(alert["expr"]) - {"le"} or labels | {"instance"}
    spoken = set(re.findall(r"\$labels\.(\w+)", "".join(alert["annotations"].values())))
    assert spoken <= kept


# Runbooks


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert PAGES_OF_ALERTS.keys() == alerts().keys()


def test_the_index_lists_each_alert_by_how_bad_it_is() -> None:
    section = read("runbooks/index.md").partition("## Alerts")[2].partition("\n## ")[0]
    listed = {
        match[0]: severity.lower()
        for severity, text in re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL)
        for match in re.findall(r"\[(Hx\w+)\]\((Hx\w+)\.md\)", text)
        if match[0] == match[1]
    }
    assert listed == {name: alert["labels"]["severity"] for name, alert in alerts().items()}


@pytest.mark.parametrize("name", sorted(PAGES_OF_ALERTS))
def test_a_runbook_says_what_how_to_see_fix_and_prove(name: str) -> None:
    text = PAGES_OF_ALERTS[name].read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## .*$", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(len(part.split()) >= 8 for part in parts)
    assert [block for block in blocks(parts[3]) if block.text.strip()] or "`" in parts[3]


@pytest.mark.parametrize("name", sorted(PAGES_OF_ALERTS))
def test_a_runbook_names_metrics_commands_and_log_events_that_there_are(name: str) -> None:
    text = PAGES_OF_ALERTS[name].read_text()
    named = {selector.metric for block in blocks(text) for selector in selectors(block.text)}
    named |= {selector.metric for span in spans(text) for selector in selectors(span)}
    assert named - SERIES.keys() - recorded() - {"up", "ALERTS"} == set()
    known = {spans(command)[0] for command, _ in rows(read("reference/commands.md"), "| command | what |")}
    for words in COMMAND.findall(text):
        parts = words.split()
        starts = {" ".join(["hx-gateway", *parts[:length]]) for length in range(1, len(parts) + 1)}
        assert starts & known, words
    events = {spans(event)[0] for event, _, _ in rows(read("reference/log.md"), "| event | level | when |")}
    told = re.findall(r"log events? ((?:`\w+`(?:, | and )?)+)", text)
    assert {event for some in told for event in spans(some)} - events == set()


def test_no_two_runbooks_are_the_same_but_for_their_names() -> None:
    texts = Counter(path.read_text().replace(name, "") for name, path in PAGES_OF_ALERTS.items())
    assert max(texts.values()) == 1


def test_every_panel_of_a_page_asks_something_else() -> None:
    asked = Counter((page, expr) for page, _, expr in panels())
    assert [key for key, times in asked.items() if times > 1] == []
