"""Operations of the registry leave as spans and metrics, in the trace of whoever asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.people import UNPROBED, living
from tests.acceptance.test_registry_http import Desk
from tests.fixtures.otlp_collector import Collector, collecting
from tests.fixtures.servers import SERVERS, running_servers

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def desk(collector: Collector) -> Iterator[Desk]:
    environ = {**UNPROBED, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with running_servers(SERVERS[0]) as servers, living(servers, environ) as people:
        yield Desk(people)


def test_every_operation_is_a_span_of_its_clients_trace_and_counted(desk: Desk, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    desk.done("POST", "/services", {"name": "weather"}, status=201, headers=headers)
    assert desk.ask("GET", "/services/nothing", headers=headers).status == 404
    desk.done("POST", "/services/bulk", {"items": [{"name": "maps"}], "dry_run": True}, headers=headers)
    desk.people.gateway.wait_until(lambda: len(ours(collector)) == 3)
    spans = ours(collector)
    assert {name: span["attributes"].get("error.type") for name, span in spans.items()} == {
        "services.create": None,
        "services.get": "not_found",
        "bulk.create": None,
    }
    assert {span["parent"] for span in spans.values()} == {PARENT}
    metrics = desk.people.gateway.get("/metrics", key=desk.people.gateway.key).body.decode()
    assert 'hx_registry_operation_seconds_count{operation="services.create",outcome="ok"} 1.0' in metrics
    assert 'operation="services.get",outcome="not_found"' in metrics


def ours(collector: Collector) -> dict[str, dict[str, Any]]:
    """Return the spans of the trace, by their names."""
    return {span["name"]: span for span in collector.spans() if span["trace_id"] == TRACE}
