"""The sink that records model requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.events import Ending
from hx_gateway.journal.copy_rows import split_rows
from hx_gateway.journal.format import Record
from hx_gateway.journal.log import Journal
from hx_gateway.observability.latencies import MAX_SERIES
from hx_gateway.observability.request_facts import Sample, decode_facts
from hx_gateway.observability.requests import METRICS_SECONDS, RequestRecorder
from tests.unit.observability.requests_made import ENDED, REFUSED, finished, journal_in, records_in, shown

REQUESTS = 16
# By CRC-32 of the id: what one version chose, every other must.
KNOWN = [0, 1, 4, 5, 8, 9]
IDS = [f"req_{number}" for number in range(2000)]


class FakeClock:
    """A clock whose sleepers a test wakes."""

    def __init__(self) -> None:
        self.sleeps: list[tuple[float, asyncio.Event]] = []

    def now(self) -> datetime:
        return datetime(2026, 11, 24, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self.sleeps.append((seconds, woken))
        await woken.wait()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    running = journal_in(tmp_path)
    running.open()
    yield running
    running.close()


def recorded(journal: Journal) -> list[str]:
    """Return the ids of the requests in ``journal``."""
    facts = [decode_facts(record.payload) for record in records_in(journal) if record.kind == REQUESTS]
    return [fact.request_id for fact in facts if fact is not None]


def metrics(journal: Journal) -> list[dict[str, Any]]:
    """Return the metric rows in ``journal``."""
    return [row for record in records_in(journal) if record.kind != REQUESTS for row in _split(record)]


def _split(record: Record) -> list[dict[str, Any]]:
    rows = [Record(record.seq, record.kind, 0, 1, 0, 0, data) for data in split_rows(record.payload)]
    return shown(rows)["performance_metrics"]


def test_a_model_request_is_one_record_with_the_time_of_its_end(journal: Journal) -> None:
    RequestRecorder(journal).emit(ENDED)
    (record,) = records_in(journal)
    assert (record.kind, record.rows) == (REQUESTS, 1)
    assert record.low == record.high == 848_836_800_000_000
    facts = decode_facts(record.payload)
    assert facts is not None
    assert (facts.request_id, facts.prompt_tokens, facts.upstream) == ("req_1", 7, "gpt-5")


def test_requests_of_other_routes_are_not_recorded(journal: Journal) -> None:
    recorder = RequestRecorder(journal)
    recorder.emit(finished(model_call=False, route="readyz", model=None, upstream=None))
    recorder.tick()
    assert records_in(journal) == []


def test_a_refusal_on_a_model_route_is_recorded(journal: Journal) -> None:
    RequestRecorder(journal).emit(REFUSED)
    assert recorded(journal) == ["req_1"]


def test_successes_may_be_shed_and_failures_may_not(journal: Journal) -> None:
    recorder = RequestRecorder(journal)
    recorder.emit(ENDED)
    recorder.emit(finished(status=502, ending=Ending.ERROR))
    assert [record.flags for record in records_in(journal)] == [1, 0]


def test_a_sample_is_the_same_for_everyone_and_about_its_share() -> None:
    chosen = [request_id for request_id in IDS if Sample(0.25).takes(request_id)]
    assert [number for number in range(12) if Sample(0.5).takes(f"req_{number}")] == KNOWN
    assert 400 < len(chosen) < 600
    assert set(chosen) < {request_id for request_id in IDS if Sample(0.5).takes(request_id)}
    assert not any(Sample(0.0).takes(request_id) for request_id in IDS)
    assert all(Sample(1.0).takes(request_id) for request_id in IDS)


def test_what_fails_is_recorded_whatever_the_sample(journal: Journal) -> None:
    recorder = RequestRecorder(journal, sample=0.0)
    recorder.emit(finished(request_id="fine"))
    recorder.emit(finished(request_id="failed", status=502, ending=Ending.ERROR))
    recorder.emit(finished(request_id="refused", status=404, ending=Ending.ERROR))
    recorder.emit(finished(request_id="broke", ending=Ending.ERROR))
    recorder.emit(finished(request_id="gone", status=499, ending=Ending.CLIENT_GONE))
    assert recorded(journal) == ["failed", "refused", "broke", "gone"]


def test_latencies_count_what_the_sample_leaves_out(journal: Journal) -> None:
    recorder = RequestRecorder(journal, sample=0.0)
    recorder.emit(ENDED)
    recorder.tick()
    assert {row["metric_name"] for row in metrics(journal)} >= {"request_duration", "routing_decision_latency"}


def test_a_journal_that_is_not_open_loses_the_record_and_says_so(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    recorder = RequestRecorder(journal)
    recorder.emit(ENDED)
    recorder.tick()
    journal.open()
    recorder.emit(ENDED)
    journal.close()
    recorder.emit(finished(status=500, ending=Ending.ERROR))
    recorder.tick()
    counts = journal.counts.of("requests")
    assert (counts.received, counts.refused) == (1, {"closed": 2})


def test_a_full_journal_loses_the_record_and_says_so(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, most=16 * 1024, segment_bytes=8 * 1024)
    journal.open()
    recorder = RequestRecorder(journal)
    for _ in range(1000):
        recorder.emit(finished(status=500, ending=Ending.ERROR))
    recorder.tick()
    counts = journal.counts.of("requests")
    assert 0 < counts.received < 1000
    assert counts.received + sum(counts.refused.values()) == 1000
    journal.close()


def test_latencies_become_one_metric_a_name_model_and_upstream(journal: Journal) -> None:
    recorder = RequestRecorder(journal)
    for duration in (0.5, 0.25, 1.5):
        recorder.emit(finished(duration=duration, routing_seconds=0.001))
    recorder.emit(finished(model="other-model", upstream="b", upstream_seconds=None))
    recorder.tick()
    rows = {(row["metric_name"], row["metadata"]["model"]): row for row in metrics(journal)}
    assert rows.keys() == {
        ("routing_decision_latency", "gpt-5"),
        ("request_duration", "gpt-5"),
        ("upstream_latency", "gpt-5"),
        ("routing_decision_latency", "other-model"),
        ("request_duration", "other-model"),
    }
    row = rows["request_duration", "gpt-5"]
    assert row["metadata"] == {
        "model": "gpt-5",
        "upstream": "gpt-5",
        "count": 3,
        "sum": 2250.0,
        "min": 250.0,
        "max": 1500.0,
    }
    assert (row["metric_value"], row["metric_type"], row["unit"]) == (750.0, "latency", "ms")
    assert (row["component"], row["tenant_id"]) == ("gateway", "default")
    assert rows["routing_decision_latency", "gpt-5"]["metadata"]["max"] == 1.0


def test_latencies_begin_anew_once_they_are_written(journal: Journal) -> None:
    recorder = RequestRecorder(journal)
    recorder.emit(ENDED)
    recorder.tick()
    before = len(records_in(journal))
    recorder.tick()
    assert len(records_in(journal)) == before


def test_made_up_models_do_not_become_metrics_without_end(journal: Journal) -> None:
    recorder = RequestRecorder(journal, sample=0.0)
    for number in range(MAX_SERIES + 50):
        recorder.emit(finished(model=f"m{number}", routing_seconds=None, upstream_seconds=None))
    for number in range(MAX_SERIES):
        recorder.emit(finished(REFUSED, status=404, model=f"unknown{number}"))
    recorder.tick()
    counted = {
        (row["metadata"]["model"], row["metadata"]["upstream"]): row["metadata"]["count"] for row in metrics(journal)
    }
    assert len(counted) == MAX_SERIES + 1
    assert counted["other", "other"] == 50 + MAX_SERIES


def test_requests_that_nobody_served_are_one_series(journal: Journal) -> None:
    recorder = RequestRecorder(journal)
    for model in ("made-up", "another", None):
        recorder.emit(finished(REFUSED, status=404, model=model))
    recorder.tick()
    (row,) = metrics(journal)
    assert (row["metadata"]["model"], row["metadata"]["upstream"], row["metadata"]["count"]) == ("other", None, 3)


async def test_latencies_are_written_in_turn_and_at_the_end(journal: Journal) -> None:
    clock = FakeClock()
    async with RequestRecorder(journal, sample=0.0, clock=clock) as recorder:
        await asyncio.sleep(0)
        recorder.emit(ENDED)
        assert metrics(journal) == []
        (seconds, woken) = clock.sleeps[0]
        assert seconds == METRICS_SECONDS == 10.0
        woken.set()
        await asyncio.sleep(0.01)
        assert len(metrics(journal)) == 3
        recorder.emit(ENDED)
    assert len(metrics(journal)) == 6
