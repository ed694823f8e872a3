"""Writes Grafana's dashboards: ``python -m scripts.dashboards``; with ``--check`` it only tells which are not current.

The JSON is what Grafana provisions and what is reviewed as data; what is drawn is said here once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts.grafana import HERE, Dashboard, Panel, Query, Row, grown, now, or_zero, quantile, rate

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "monitoring" / "grafana" / "dashboards"
NANO = 1_000_000_000
FAILED = 'status=~"5.."'
HEALTH = ((0, "healthy"), (1, "recovering"), (2, "degraded"), (3, "unhealthy"))
CIRCUIT = ((0, "closed"), (1, "half-open"), (2, "open"))
ROOM = ((0, "room"), (1, "pressed"), (2, "full"))
BAD_FROM_ONE = ((1, "red"),)


def _dollars(expr: str) -> str:
    return f"({expr}) / {NANO}"


def _stat(title: str, expr: str, unit: str = "short", **more: object) -> Panel:
    return Panel(title=title, queries=[Query(expr, title)], unit=unit, kind="stat", **more)  # type: ignore[arg-type]


def _lines(title: str, unit: str, *queries: tuple[str, str], **more: object) -> Panel:
    return Panel(title=title, queries=[Query(*query) for query in queries], unit=unit, **more)  # type: ignore[arg-type]


def _quantiles(title: str, histogram: str, by: str, **more: object) -> Panel:
    parts = [(quantile(share, histogram, by), f"{{{{{by}}}}} p{share * 100:g}") for share in (0.5, 0.95)]
    return _lines(title, "s", *parts, **more)


OVERVIEW = Dashboard(
    uid="hx-overview",
    title="HX Gateway: overview",
    about="Whether gateways serve, how fast, and how their stores are.",
    rows=[
        Row(
            "Now",
            [
                _stat("Gateways", f'sum(up{{job="hx-gateway", {HERE}}})', thresholds=((1, "green"),), base="red"),
                _stat(
                    "Alerts", or_zero('count(ALERTS{alertname=~"Hx.*", alertstate="firing"})'), thresholds=BAD_FROM_ONE
                ),
                _stat("Requests", rate("hx_requests_total"), "reqps"),
                _stat(
                    "Failed",
                    f"({or_zero(rate('hx_requests_total', where=FAILED))}) / {rate('hx_requests_total')}",
                    "percentunit",
                    thresholds=((0.01, "yellow"), (0.05, "red")),
                    about="Answers of 5xx, as a share of all.",
                ),
                _stat("In flight", now("sum", "hx_requests_in_flight")),
                _stat(
                    "Record",
                    now("max", "hx_record_health"),
                    "none",
                    values=HEALTH,
                    thresholds=((1, "yellow"), (2, "orange"), (3, "red")),
                ),
            ],
        ),
        Row(
            "Requests",
            [
                _lines("Requests by route", "reqps", (rate("hx_requests_total", "route"), "{{route}}"), stacked=True),
                _lines("Answers by status", "reqps", (rate("hx_requests_total", "status"), "{{status}}"), stacked=True),
                _lines("Answers by ending", "reqps", (rate("hx_requests_total", "ending"), "{{ending}}"), stacked=True),
                _quantiles("Duration", "hx_request_duration_seconds", "route"),
                _lines(
                    "Refused at the edge",
                    "reqps",
                    (or_zero(rate("hx_edge_refusals_total", "code")), "{{code}}"),
                    about="Before they were a request: too many connections, a head that is none.",
                ),
                _lines("Keys", "ops", (rate("hx_key_checks_total", "outcome"), "{{outcome}}"), stacked=True),
            ],
        ),
        Row(
            "Stores and workers",
            [
                _lines(
                    "Stores",
                    "bool_on_off",
                    (now("min", "hx_dependency_up", "dependency, instance"), "{{dependency}} {{instance}}"),
                ),
                _lines(
                    "Event loop, 99th percentile of lag",
                    "s",
                    (quantile(0.99, "hx_event_loop_lag_seconds", "instance"), "{{instance}}"),
                    thresholds=((0.25, "red"),),
                ),
                _lines(
                    "Since the last start",
                    "s",
                    (f"time() - hx_process_start_time_seconds{{{HERE}}}", "{{instance}}"),
                    about="Of the youngest worker.",
                ),
            ],
        ),
        Row(
            "Response cache",
            [
                _lines(
                    "Requests by what the cache did",
                    "reqps",
                    (rate("hx_cache_requests_total", "outcome, kind"), "{{outcome}} {{kind}}"),
                    stacked=True,
                ),
                _lines(
                    "Look-ups by meaning",
                    "ops",
                    (rate("hx_cache_meaning_look_ups_total", "outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                _lines(
                    "Answers that were to be kept",
                    "ops",
                    (rate("hx_cache_meaning_answers_total", "outcome"), "by meaning: {{outcome}}"),
                    (rate("hx_cache_unkept_total"), "store away"),
                ),
            ],
        ),
    ],
)

SPEND = Dashboard(
    uid="hx-spend",
    title="HX Gateway: spend",
    about="What calls cost and who is refused. The ledger has it to the cent: hx-gateway spend summary.",
    rows=[
        Row(
            "In the time that is looked at",
            [
                _stat("Spent", _dollars(grown("hx_spend_nano_total")), "currencyUSD"),
                _stat("Saved by the cache", _dollars(or_zero(grown("hx_cache_saved_nano_total"))), "currencyUSD"),
                _stat("Calls", grown("hx_calls_admitted_total")),
                _stat("Refused", or_zero(grown("hx_calls_refused_total")), thresholds=((1, "yellow"),)),
                _stat(
                    "Soft limits crossed",
                    grown("hx_budget_soft_limits_crossed_total"),
                    thresholds=((1, "yellow"),),
                    about="The log event budget_soft_limit says of which budgets.",
                ),
                _stat("Calls lapsed", grown("hx_calls_lapsed_total"), thresholds=BAD_FROM_ONE),
            ],
        ),
        Row(
            "Money and tokens",
            [
                _lines(
                    "Dollars an hour by model",
                    "currencyUSD",
                    (f"3600 * {_dollars(rate('hx_spend_nano_total', 'model'))}", "{{model}}"),
                    stacked=True,
                ),
                _lines(
                    "Tokens a second by model",
                    "short",
                    (rate("hx_tokens_total", "model, kind"), "{{model}} {{kind}}"),
                    stacked=True,
                ),
                _lines(
                    "Tokens that the cache saved",
                    "short",
                    (rate("hx_cache_saved_tokens_total", "kind, part"), "{{kind}} {{part}}"),
                ),
            ],
        ),
        Row(
            "Limits and budgets",
            [
                _lines(
                    "Calls",
                    "reqps",
                    (rate("hx_calls_admitted_total"), "admitted"),
                    (rate("hx_calls_refused_total", "reason"), "refused: {{reason}}"),
                    (rate("hx_shadow_refusals_total"), "would be refused"),
                    (rate("hx_rate_fallbacks_total"), "counted by a worker alone"),
                ),
                _lines(
                    "Calls that hold something",
                    "short",
                    (now("sum", "hx_calls_open"), "open"),
                    (now("sum", "hx_calls_settling"), "settling"),
                    about="Settling: ended, and the counters have yet to hear of it.",
                ),
                _lines(
                    "Counters that were wrong",
                    "currencyUSD",
                    (_dollars(now("max", "hx_budget_drift_nano")), "largest drift"),
                    (_dollars(grown("hx_budget_overrun_nano_total")), "charged beyond what was reserved"),
                ),
                _lines(
                    "Epochs and corrections",
                    "short",
                    (grown("hx_ledger_epochs_total"), "epochs begun"),
                    (grown("hx_budget_corrections_total"), "counters set right"),
                ),
                _lines(
                    "Age of what the ledger has not stored",
                    "s",
                    (now("max", "hx_journal_oldest_age_seconds", "instance", 'journal="ledger"'), "{{instance}}"),
                    thresholds=((300, "red"),),
                ),
            ],
        ),
    ],
)

UPSTREAMS = Dashboard(
    uid="hx-upstreams",
    title="HX Gateway: upstreams",
    about="The servers of models: how much, how fast, and what goes wrong with them.",
    rows=[
        Row(
            "Now",
            [
                _stat("Calls answered", rate("hx_upstream_duration_seconds_count"), "reqps"),
                _stat(
                    "Calls failed", or_zero(rate("hx_upstream_failures_total")), "reqps", thresholds=((0.01, "red"),)
                ),
                _stat(
                    "Worst server",
                    or_zero("max(upstream:hx_upstream_failures:ratio_rate5m)"),
                    "percentunit",
                    thresholds=((0.05, "yellow"), (0.2, "red")),
                    about="Failures as a share of its calls.",
                ),
                _stat("First byte, 95th percentile", quantile(0.95, "hx_time_to_first_byte_seconds"), "s"),
                _stat("Tokens a second", rate("hx_tokens_total")),
            ],
        ),
        Row(
            "By server",
            [
                _lines(
                    "Calls answered",
                    "reqps",
                    (rate("hx_upstream_duration_seconds_count", "upstream"), "{{upstream}}"),
                    stacked=True,
                ),
                _lines(
                    "Calls failed, by why",
                    "reqps",
                    (rate("hx_upstream_failures_total", "upstream, code"), "{{upstream}} {{code}}"),
                    stacked=True,
                ),
                _lines(
                    "Failures as a share of calls",
                    "percentunit",
                    ("upstream:hx_upstream_failures:ratio_rate5m", "{{upstream}}"),
                    thresholds=((0.2, "red"),),
                ),
                _quantiles("Time to the head of an answer", "hx_upstream_duration_seconds", "upstream"),
            ],
        ),
        Row(
            "By model",
            [
                _quantiles(
                    "Time to the first byte of a stream",
                    "hx_time_to_first_byte_seconds",
                    "model",
                    thresholds=((10, "red"),),
                ),
                _lines(
                    "Tokens a second",
                    "short",
                    (rate("hx_tokens_total", "model, kind"), "{{model}} {{kind}}"),
                    stacked=True,
                ),
                _lines(
                    "Calls failed",
                    "reqps",
                    (rate("hx_upstream_failures_total", "model"), "{{model}}"),
                    stacked=True,
                ),
            ],
        ),
    ],
)

INGESTION = Dashboard(
    uid="hx-ingestion",
    title="HX Gateway: ingestion",
    about="From accepted to stored: the journals on disk, the batches, and the tables of the record.",
    rows=[
        Row(
            "Now",
            [
                _stat(
                    "Record",
                    now("max", "hx_record_health"),
                    "none",
                    values=HEALTH,
                    thresholds=((1, "yellow"), (2, "orange"), (3, "red")),
                ),
                _stat("Rows waiting", now("sum", "hx_events_waiting"), thresholds=((100_000, "yellow"),)),
                _stat("Rows stored", rate("hx_events_committed_total"), "wps"),
                _stat(
                    "Journals",
                    now("max", "hx_journal_state"),
                    "none",
                    values=ROOM,
                    thresholds=((1, "yellow"), (2, "red")),
                ),
                _stat(
                    "Circuits",
                    now("max", "hx_breaker_state"),
                    "none",
                    values=CIRCUIT,
                    thresholds=((1, "yellow"), (2, "red")),
                ),
                _stat("Dead letters", or_zero(grown("hx_events_dead_lettered_total")), thresholds=BAD_FROM_ONE),
            ],
        ),
        Row(
            "Rows",
            [
                _lines("Accepted", "wps", (rate("hx_events_received_total", "table"), "{{table}}"), stacked=True),
                _lines("Stored", "wps", (rate("hx_events_committed_total", "table"), "{{table}}"), stacked=True),
                _lines("Waiting", "short", (now("sum", "hx_events_waiting", "table"), "{{table}}"), stacked=True),
                _lines(
                    "Set aside",
                    "wps",
                    (or_zero(rate("hx_events_dead_lettered_total", "table, sqlstate")), "{{table}} {{sqlstate}}"),
                    about="Dead letters: PostgreSQL refuses them. hx-gateway events dead-letters list shows them.",
                ),
                _lines(
                    "Lost or refused for want of room",
                    "wps",
                    (or_zero(rate("hx_events_dropped_total", "table, policy")), "dropped: {{table}} {{policy}}"),
                    (or_zero(rate("hx_events_rejected_total", "table, reason")), "refused: {{table}} {{reason}}"),
                ),
                _lines(
                    "Found again, and twice",
                    "wps",
                    (rate("hx_events_recovered_total", "table"), "recovered: {{table}}"),
                    (rate("hx_events_duplicate_total", "table"), "there already: {{table}}"),
                ),
            ],
        ),
        Row(
            "Journals and batches",
            [
                _lines(
                    "On disk",
                    "bytes",
                    (now("max", "hx_journal_bytes", "instance"), "journals of {{instance}}"),
                    (now("min", "hx_journal_free_bytes", "instance"), "free at {{instance}}"),
                ),
                _lines(
                    "Age of the oldest segment",
                    "s",
                    (now("max", "hx_journal_oldest_age_seconds", "journal"), "{{journal}}"),
                    thresholds=((300, "red"),),
                ),
                _lines("Segments", "short", (now("sum", "hx_journal_segments", "journal"), "{{journal}}")),
                _lines(
                    "Batches",
                    "s",
                    (quantile(0.5, "hx_event_flush_seconds"), "transaction p50"),
                    (quantile(0.99, "hx_event_flush_seconds"), "transaction p99"),
                    (quantile(0.99, "hx_journal_sync_seconds"), "sync of the disk p99"),
                ),
                _lines(
                    "Rows of a batch",
                    "short",
                    (f"{rate('hx_event_flush_rows_sum')} / {rate('hx_event_flush_rows_count')}", "mean"),
                    (quantile(0.95, "hx_event_flush_rows"), "p95"),
                ),
                _lines(
                    "Circuits and pauses",
                    "short",
                    (now("max", "hx_breaker_state", "target"), "circuit of {{target}} (2: open)"),
                    (now("max", "hx_journal_paused", "journal"), "{{journal}} paused"),
                    (grown("hx_journal_corrupt_ranges_total", "journal"), "{{journal}}: damaged ranges"),
                    (or_zero(grown("hx_breaker_transitions_total", "target, to")), "{{target}} to {{to}}"),
                ),
            ],
        ),
        Row(
            "Tables",
            [
                _lines(
                    "Queries",
                    "s",
                    (quantile(0.5, "hx_record_query_seconds"), "p50"),
                    (quantile(0.95, "hx_record_query_seconds"), "p95"),
                ),
                _lines(
                    "Connections that read",
                    "short",
                    (now("sum", "hx_record_pool_connections", "state"), "{{state}}"),
                ),
                _lines(
                    "Partitions ahead",
                    "short",
                    (now("min", "hx_partitions_ahead", "table"), "{{table}}"),
                    thresholds=((2, "green"),),
                    base="red",
                ),
                _lines(
                    "Since partitions were looked after",
                    "s",
                    (
                        f"time() - (hx_partition_maintenance_last_success_timestamp_seconds{{{HERE}}} > 0)",
                        "{{instance}}",
                    ),
                    thresholds=((14_400, "red"),),
                ),
                _lines(
                    "Removed by retention",
                    "short",
                    (or_zero(grown("hx_retention_removed_rows_total", "table")), "rows: {{table}}"),
                    (or_zero(grown("hx_retention_dropped_partitions_total", "table")), "partitions: {{table}}"),
                ),
            ],
        ),
    ],
)

REGISTRY = Dashboard(
    uid="hx-registry",
    title="HX Gateway: registry",
    about="Registered services, how they are found to be, and who asks for them.",
    rows=[
        Row(
            "Now",
            [
                _stat("Services", f"sum(max by (status, protocol, priority) (hx_registry_services{{{HERE}}}))"),
                _stat(
                    "Unhealthy",
                    f'sum(max by (protocol, priority) (hx_registry_services{{status="unhealthy", {HERE}}}))',
                    thresholds=((1, "yellow"),),
                ),
                _stat(
                    "Required and unhealthy",
                    now("max", "hx_registry_required_services", where='status="unhealthy"'),
                    thresholds=BAD_FROM_ONE,
                ),
                _stat(
                    "Longest overdue",
                    now("max", "hx_registry_checks_overdue_seconds"),
                    "s",
                    thresholds=((60, "yellow"), (120, "red")),
                ),
                _stat(
                    "Self-preservation",
                    now("max", "hx_registry_self_preservation"),
                    "bool_on_off",
                    thresholds=BAD_FROM_ONE,
                    about="On: failures of services are taken for the gateway's own.",
                ),
            ],
        ),
        Row(
            "Health",
            [
                _lines(
                    "Services by status",
                    "short",
                    (
                        f"sum by (status) (max by (status, protocol, priority) (hx_registry_services{{{HERE}}}))",
                        "{{status}}",
                    ),
                    stacked=True,
                ),
                _lines(
                    "Probes", "ops", (rate("hx_registry_probe_seconds_count", "outcome"), "{{outcome}}"), stacked=True
                ),
                _lines(
                    "Probes that failed, by why",
                    "ops",
                    (rate("hx_registry_probe_failures_total", "failure_class"), "{{failure_class}}"),
                    stacked=True,
                ),
                _quantiles("Time of a probe", "hx_registry_probe_seconds", "protocol"),
                _lines(
                    "Overdue",
                    "s",
                    (now("max", "hx_registry_checks_overdue_seconds", "instance"), "{{instance}}"),
                    thresholds=((120, "red"),),
                ),
                _lines(
                    "Asked for tools", "ops", (or_zero(rate("hx_registry_tool_lists_total", "outcome")), "{{outcome}}")
                ),
            ],
        ),
        Row(
            "Use",
            [
                _lines(
                    "Operations",
                    "ops",
                    (rate("hx_registry_operation_seconds_count", "operation"), "{{operation}}"),
                    stacked=True,
                ),
                _quantiles("Time of an operation", "hx_registry_operation_seconds", "operation"),
                _lines(
                    "Operations that were refused",
                    "ops",
                    (or_zero(rate("hx_registry_operation_seconds_count", "outcome", 'outcome!="ok"')), "{{outcome}}"),
                ),
                _lines(
                    "Reads from memory",
                    "ops",
                    (rate("hx_registry_reads_total", "outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                _lines(
                    "Since other registries were read",
                    "s",
                    (
                        f"time() - max by (tenant, url) (hx_registry_sync_last_success_timestamp_seconds{{{HERE}}})",
                        "{{tenant}} {{url}}",
                    ),
                    thresholds=((21_600, "red"),),
                ),
            ],
        ),
    ],
)

DASHBOARDS = {
    "overview": OVERVIEW,
    "spend": SPEND,
    "upstreams": UPSTREAMS,
    "ingestion": INGESTION,
    "registry": REGISTRY,
}


def rendered() -> dict[Path, str]:
    """Return the text of each file."""
    return {
        FOLDER / f"{name}.json": json.dumps(dashboard.document(), indent=2, ensure_ascii=False) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` say which differ; return the exit status."""
    stale = [path for path, text in rendered().items() if not path.exists() or path.read_text() != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is not current: python -m scripts.dashboards", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(rendered()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
