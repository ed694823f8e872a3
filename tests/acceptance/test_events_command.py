"""``hx-gateway events`` against a running gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.events import app
from tests.acceptance.conftest import Record

POISON = (
    "ALTER TABLE agent_observability.trace_events ADD CONSTRAINT no_poison CHECK (event_type <> 'poison') NOT VALID"
)
HEALED = "ALTER TABLE agent_observability.trace_events DROP CONSTRAINT no_poison"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def run(record: Record, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", record.gateway.url, "--key", record.gateway.key])


def told(record: Record, *arguments: str) -> str:
    """Return what a command that works prints."""
    result = run(record, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_event_is_sent_listed_and_found_in_its_trace(record: Record) -> None:
    trace, agent = uuid4().hex, uuid4().hex
    metadata = '{"order": 7}'
    said = told(
        record,
        "send",
        "order.looked_up",
        "--trace-id",
        trace,
        "--agent-name",
        agent,
        "--message",
        "found",
        "--metadata",
        metadata,
        "--level",
        "WARN",
    )
    assert said.endswith(f"in trace {trace}\n")
    record.stored()
    listed = told(record, "list", "--where", f"trace_id={trace}", "--since", "1h")
    assert "order.looked_up" in listed
    assert "1 since " in listed
    (item,) = map(json.loads, told(record, "list", "--where", f"trace_id={trace}", "--json").splitlines())
    assert item["metadata"] == {"order": 7}
    named = ("--agent-name", agent, "--event-type", "order.looked_up", "--json")
    assert json.loads(told(record, "list", "--min-level", "WARN", *named)) == item
    assert told(record, "list", "--min-level", "ERROR", *named) == ""
    assert told(record, "list", "--until", "1h", *named) == ""
    assert "0 spans, 1 events" in told(record, "trace", trace)


def test_spans_are_printed_below_their_parents_and_what_a_terminal_obeys_is_not(record: Record) -> None:
    trace = uuid4().hex
    record.send(
        {"trace_id": trace, "event_type": "outer", "span_id": "a", "message": "\x1b[31mred [bold]x[/]"},
        {"trace_id": trace, "event_type": "inner", "span_id": "b", "parent_span_id": "a", "duration_ms": 12.5},
    )
    record.stored()
    lines = told(record, "trace", trace).splitlines()
    assert "[31mred [bold]x[/]" in lines[1]
    assert "\x1b" not in lines[1]
    assert lines[2].index("└") > lines[1].index("└")
    assert "inner  12.5 ms" in lines[2]


def test_an_export_is_written_whole_or_not_at_all(record: Record, tmp_path: Path) -> None:
    agent = uuid4().hex
    for _ in range(3):
        record.send(*[{"trace_id": "t", "event_type": "step", "agent_name": agent}] * 500)
    record.stored()
    out = tmp_path / "events.jsonl"
    assert "1500 records" in told(record, "export", "trace_events", "--out", str(out), "--where", f"agent_name={agent}")
    assert len({json.loads(line)["event_id"] for line in out.read_text().splitlines()}) == 1500
    printed = told(record, "export", "trace_events", "--where", f"agent_name={agent}")
    assert printed == out.read_text()
    refused = run(record, "export", "trace_events", "--out", str(out), "--where", "colour=red")
    assert refused.exit_code == 1
    assert "colour" in refused.output
    assert out.read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


def test_dead_letters_are_listed_shown_replayed_and_purged(record: Record) -> None:
    record.execute(POISON)
    try:
        record.send({"trace_id": "t", "event_type": "poison"}, {"trace_id": "t", "event_type": "poison"})
        record.gateway.wait_until(lambda: len(record.get("/dead_letters")["items"]) == 2)
    finally:
        record.execute(HEALED)
    numbers = [str(letter["id"]) for letter in record.get("/dead_letters")["items"]]
    assert told(record, "dead-letters", "list", "--no-replayed").count("23514") == 2
    shown: Any = json.loads(told(record, "dead-letters", "show", numbers[0]))
    assert shown["payload"]["event_type"] == "poison"
    assert "1 on their way again, 0 left" in told(record, "dead-letters", "replay", numbers[0])
    assert "1 on their way again, 0 left" in told(record, "dead-letters", "replay", "--target", "trace_events")
    assert "0 deleted" in told(record, "dead-letters", "purge", "--older-than", "2026-01-01T00:00:00Z")
    assert "2 deleted" in told(record, "dead-letters", "purge", *numbers)
    for wrong in (["replay"], ["replay", "1", "--target", "x"], ["purge"], ["purge", "1", "--older-than", "now"]):
        assert run(record, "dead-letters", *wrong).exit_code == 1


def test_the_health_is_printed(record: Record) -> None:
    assert "accepting" in told(record, "health")
    assert json.loads(told(record, "health", "--json"))["accepting"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "spans"], "no table 'spans'"),
        (["list", "--where", "agent"], "name=value"),
        (["list", "--where", "min_level=LOUD"], "min_level must be one of"),
        (["list", "--since", "yesterday"], "--since"),
        (["trace", "no-such-trace"], "404: There is no event"),
        (["send", "x", "--metadata", "{oops"], "--metadata is not JSON"),
        (["send", "x", "--level", "LOUD"], "400: level must be one of"),
    ],
)
def test_what_is_wrong_is_said(record: Record, arguments: list[str], says: str) -> None:
    result = run(record, *arguments)
    assert result.exit_code == 1
    assert says in result.output


def test_a_gateway_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(app, ["health", "--url", "http://127.0.0.1:1", "--key", "k"])
    assert result.exit_code == 1
    assert "nothing listens at http://127.0.0.1:1" in result.output


# Whoever runs these tests in the background may have SIGINT ignored, which children inherit.
_INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from hx_gateway.cli.events import app
app()
"""


def test_new_events_are_printed_as_they_come(record: Record) -> None:
    agent = uuid4().hex
    command = [sys.executable, "-c", _INTERRUPTED, "tail", "--json", "--lines", "1"]
    command += ["--where", f"agent_name={agent}", "--url", record.gateway.url, "--key", record.gateway.key]
    before = record.send(*[{"trace_id": "t", "event_type": "old", "agent_name": agent}] * 2)
    record.stored()
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event_id"] in before
            (after,) = record.send({"trace_id": "t", "event_type": "new", "agent_name": agent})
            assert json.loads(process.stdout.readline())["event_id"] == after
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
