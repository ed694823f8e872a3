"""What a finished request adds to the metrics."""

from __future__ import annotations

import msgspec

from hx_gateway.errors import HXError, UpstreamFailed
from hx_gateway.events import Ending, RequestFinished
from hx_gateway.http.records import UPSTREAM_CODES, RequestMetrics
from hx_gateway.telemetry import Metrics

LABELS = {"model": "big", "upstream": "a", "code": "upstream_timeout"}


def finished(code: str | None, model: str | None = "big") -> RequestFinished:
    return RequestFinished(
        request_id="req_1",
        route="chat_completions",
        method="POST",
        status=504,
        ending=Ending.COMPLETE,
        duration=1.0,
        client="192.0.2.1",
        error_code=code,
        model=model,
        upstream="a",
    )


def test_what_a_models_server_did_wrong_is_counted_and_nothing_else_is() -> None:
    metrics = Metrics()
    sink = RequestMetrics(metrics, lambda model: model == "big")
    for code in ("upstream_timeout", "upstream_timeout", "insufficient_quota", None):
        sink.emit(finished(code))
    sink.emit(finished("upstream_timeout", model=None))
    sink.emit(finished("upstream_timeout", model="made up by a client"))
    counted = [
        sample
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "hx_upstream_failures_total"
    ]
    assert {sample.labels["model"]: sample.value for sample in counted} == {"big": 2, "other": 1}
    assert metrics.registry.get_sample_value("hx_upstream_failures_total", LABELS) == 2


def test_what_calls_cost_adds_up() -> None:
    metrics = Metrics()
    sink = RequestMetrics(metrics, lambda model: model == "big")
    for cost in (7, None, 5):
        sink.emit(msgspec.structs.replace(finished(None), cost_nano=cost))
    assert metrics.registry.get_sample_value("hx_spend_nano_total", {"model": "big"}) == 12


def test_the_codes_that_blame_a_server_are_told_by_how_they_begin() -> None:
    kinds: list[type[HXError]] = [UpstreamFailed, *HXError.__subclasses__()]
    blaming = {kind.code for kind in kinds if kind.type == "upstream_error"}
    assert blaming
    assert all(code.startswith(UPSTREAM_CODES) for code in blaming)
