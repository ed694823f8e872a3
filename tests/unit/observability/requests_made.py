"""Finished requests for tests of the gateway's own record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hx_gateway.events import Ending, RequestFinished, TokenUsage
from hx_gateway.journal.copy_rows import decode_row
from hx_gateway.journal.format import Record
from hx_gateway.journal.log import Journal, JournalOptions
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.space import Budget
from hx_gateway.kit.epochs import POSTGRES_EPOCH_US
from hx_gateway.observability.request_facts import encode_facts
from hx_gateway.observability.requests import request_kind
from hx_gateway.observability.tables import FORMATS, record_kinds

# 2026-11-24T12:00:00Z
ENDED_US = 1_795_521_600_000_000
ENDED = RequestFinished(
    request_id="req_1",
    route="chat_completions",
    method="POST",
    status=200,
    ending=Ending.COMPLETE,
    duration=0.5,
    client="192.0.2.1",
    ended_ns=ENDED_US * 1000,
    tenant_id="acme",
    key_id="k1",
    model_call=True,
    operation="chat",
    requested_model="gpt-5",
    model="gpt-5",
    upstream="gpt-5",
    provider="openai",
    upstream_address="api.example.org:443",
    routing_seconds=0.25,
    upstream_seconds=0.375,
    attempts=1,
    bytes_sent=120,
    usage=TokenUsage(prompt_tokens=7, completion_tokens=3),
)
REFUSED = msgspec.structs.replace(
    ENDED,
    status=401,
    ending=Ending.ERROR,
    error_code="invalid_api_key",
    tenant_id=None,
    key_id=None,
    operation=None,
    requested_model=None,
    model=None,
    upstream=None,
    provider=None,
    upstream_address=None,
    routing_seconds=None,
    upstream_seconds=None,
    attempts=0,
    usage=None,
)


def finished(event: RequestFinished = ENDED, **changes: Any) -> RequestFinished:
    """Return ``event`` with ``changes``."""
    return msgspec.structs.replace(event, **changes)


def record_of(event: RequestFinished) -> Record:
    """Return the journal's record of ``event``."""
    time_us = event.ended_ns // 1000 - POSTGRES_EPOCH_US
    return Record(1, 16, 0, 1, time_us, time_us, encode_facts(event))


def shown(rows: list[Record]) -> dict[str, list[dict[str, Any]]]:
    """Return rows by table, as names and values."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        form = FORMATS[row.kind]
        tables.setdefault(form.table, []).append(decode_row(row.payload, form))
    return tables


def journal_in(root: Path, *, most: int | None = None, segment_bytes: int = 1024**2) -> Journal:
    """Return a journal of the record's kinds in ``root``, not open."""
    options = JournalOptions(
        segment_bytes=segment_bytes, budget=Budget(max_bytes=most, min_free_bytes=0, ballast_bytes=0)
    )
    return Journal(root, "events", [*record_kinds(), request_kind()], options)


def records_in(journal: Journal) -> list[Record]:
    """Return what ``journal`` holds in the segment it writes to."""
    assert journal.active is not None
    return list(read_segment(journal.active.path, journal.active.end))
