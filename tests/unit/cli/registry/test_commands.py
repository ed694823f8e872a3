"""What the commands over the registry ask of a gateway, and what they print."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.client import Refused
from hx_gateway.cli.registry import checking, files, requests, services, standing
from hx_gateway.cli.registry.app import app
from hx_gateway.cli.registry.columns import milliseconds
from hx_gateway.cli.registry.watch import line_of
from hx_gateway.registry.api.schemas import SERVICE_EXAMPLE, ServicePatch

S = "/api/v1/registry/services"


class FakeGateway:
    """Answers with an example, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, Any]] = []
        self.pages = 1
        self.service: dict[str, Any] = SERVICE_EXAMPLE
        self.bulk: list[Any] = []
        self.pending = 0

    async def ask(self, method: str, path: str, parameters: Any = None, body: Any = None) -> Any:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        self.asked.append((method, path, given, body))
        if path.endswith("/bulk"):
            answer = self.bulk.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return {"results": [{"index": index, **told} for index, told in enumerate(answer)]}
        if path.endswith("/heartbeats"):
            unknown = [item["ref"] for item in body["items"] if item["ref"] == "nobody"]
            return {"updated": len(body["items"]) - len(unknown), "unknown": unknown}
        if path == f"{S}/check":
            return {
                "job": "j",
                "due": 1,
                "unknown": [ref for ref in body["selector"].get("refs", ()) if ref == "nobody"],
            }
        if path.endswith("/checks/j"):
            items = [{"name": "weather", "status": "healthy", "probed_at": "2026-11-24T09:00:00Z", "last_error": None}]
            return {"pending": self.pending, "items": items}
        if path.endswith("/check"):
            state = {"status": "unhealthy", "last_error": "no answer", "service_id": self.service["id"]}
            return {"name": "weather", **state}
        if (method, path) == ("GET", S):
            self.pages -= 1
            return {"items": [self.service] * given["limit"], "next_cursor": "next" if self.pages else None}
        return self.service


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    fake = FakeGateway()

    def run(_url: str, _key: str | None, work: Callable[[Any], Awaitable[Any]]) -> Any:
        step = work(fake).__await__()
        try:
            next(step)
        except StopIteration as done:
            return done.value
        raise AssertionError("the fake never waits")

    monkeypatch.setenv("COLUMNS", "250")
    for module in (requests, files, standing, checking):
        monkeypatch.setattr(module, "run_with", run)
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def told(*arguments: str) -> str:
    """Return what a command that works prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_filter_of_a_list_is_asked_for(gateway: FakeGateway) -> None:
    options = (
        "--query fore --status unknown --status disabled --unhealthy --tag a --tag b --tags-match all --protocol http"
        " --priority high --build-type docker --required --stale-after 15m --deleted --sort -name --limit 7"
        " --tenant acme"
    )
    told("list", *options.split())
    ((_, path, parameters, _),) = gateway.asked
    assert (path, parameters) == (
        S,
        {
            "q": "fore",
            "status": "unknown,disabled,unhealthy",
            "tags": "a,b",
            "tags_match": "all",
            "protocol": "http",
            "priority": "high",
            "build_type": "docker",
            "required": "true",
            "stale_after": "15m",
            "include_deleted": "true",
            "sort": "-name",
            "limit": 7,
            "tenant_id": "acme",
        },
    )


def test_a_list_goes_over_as_many_pages_as_it_takes(gateway: FakeGateway) -> None:
    gateway.pages = 4
    assert "450; there are more" in told("list", "--limit", "450")
    assert [(asked[2]["limit"], asked[2].get("cursor")) for asked in gateway.asked] == [
        (200, None),
        (200, "next"),
        (50, "next"),
    ]


def test_a_list_is_a_table_or_json_lines(gateway: FakeGateway) -> None:
    printed = told("list", "--limit", "2")
    for cell in (
        "weather",
        "healthy",
        "high",
        "http",
        "https://weather.example.org/mcp",
        "1.4.0",
        "12.5 ms",
        "made up",
    ):
        assert printed.count(cell) >= 2
    gateway.pages = 1
    assert [json.loads(line) for line in told("list", "--limit", "2", "--json").splitlines()] == [SERVICE_EXAMPLE] * 2


def test_a_service_is_shown_with_both_ends_of_its_dependencies_by_name(gateway: FakeGateway) -> None:
    db = {**SERVICE_EXAMPLE, "id": "id-db", "name": "db"}
    gateway.service = {
        **SERVICE_EXAMPLE,
        "dependencies": ["id-db", "0123456789ab"],
        "expanded": {"dependencies": [db], "dependents": []},
    }
    lines = told("show", "a b/c").splitlines()
    assert gateway.asked[0][1:3] == (
        f"{S}/a%20b%2Fc",
        {"expand": "dependencies,dependents", "include_deleted": "true"},
    )
    (ends,) = [line for line in lines if line.startswith("dependencies")]
    assert ends.split(None, 1)[1].rstrip() == "db, 01234567… (deleted)"
    assert any("97.6%: 41 of 42 probes" in line for line in lines)
    assert any(line.startswith("service_metadata") and '"made up"' in line for line in lines)


def test_what_a_terminal_obeys_is_not_printed(gateway: FakeGateway) -> None:
    gateway.service = {**SERVICE_EXAMPLE, "name": "\x1b[31mred [bold]x[/]", "endpoint": "a\nb", "tags": ["\x07"]}
    for command in (["list", "--limit", "1"], ["show", "x"], ["enable", "x"]):
        printed = told(*command)
        assert "[31mred [bold]x[/]" in printed
        assert not {"\x1b", "\x07"} & set(printed)
        gateway.pages = 1


def test_a_service_is_added_with_everything_it_was_given(gateway: FakeGateway) -> None:
    options = (
        "--display-name W --description D --build-type external --protocol http --priority high --location here"
        " --endpoint https://weather.example.org/mcp --port 8080 --version 2 --tag a --tag b --required --auto-start"
        " --health-check-url https://weather.example.org/health --depends-on db --pending maps --source s"
        " --registry-url https://registry.example.org/ --on-conflict update"
    )
    told("add", "weather", *options.split(), "--metadata", '{"team": "a"}', "--config", '{"x": 1}')
    (method, path, parameters, body), _ = gateway.asked
    assert (method, path, parameters) == ("POST", S, {"on_conflict": "update"})
    assert ServicePatch.model_validate(body).given() == body
    assert body.keys() == ServicePatch.model_fields.keys() - {"status", "is_enabled"}


def test_a_service_is_added_with_nothing_that_was_not_given(gateway: FakeGateway) -> None:
    assert json.loads(told("add", "weather", "--json")) == SERVICE_EXAMPLE
    assert gateway.asked == [("POST", S, {}, {"name": "weather"})]


@pytest.mark.parametrize(
    ("changes", "patch"),
    [
        (["priority=high", "version=2"], {"priority": "high", "version": "2"}),
        (
            ["port=8080", "is_required=true", "auto_start=false"],
            {"port": 8080, "is_required": True, "auto_start": False},
        ),
        (["port=", "endpoint="], {"port": None, "endpoint": None}),
        (["tags=a,b", "dependencies="], {"tags": ["a", "b"], "dependencies": []}),
        (["description=a=b, c"], {"description": "a=b, c"}),
        (['config={"a": {"b": 1}}'], {"config": {"a": {"b": 1}}}),
        (
            ["service_metadata.team=search", "service_metadata.tier.level=2", "service_metadata.old="],
            {"service_metadata": {"team": "search", "tier": {"level": 2}, "old": None}},
        ),
        (["port=many"], {"port": "many"}),
    ],
)
def test_changes_are_read_as_their_fields_are(changes: list[str], patch: dict[str, Any]) -> None:
    assert services.patch_of(changes) == patch


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("priority", "write it as FIELD=VALUE"),
        ("colour=red", "'colour' is no field: name, "),
        ("tags.a=b", "tags has no members"),
        ("is_required=yes", "write true or false"),
        ("config=5", "config is not a JSON object"),
    ],
)
def test_a_change_that_cannot_be_read_is_named(gateway: FakeGateway, change: str, says: str) -> None:
    result = run("set", "weather", change)
    assert (result.exit_code, gateway.asked) == (1, [])
    assert says in result.output


def test_every_field_that_may_be_set_is_of_a_kind_that_is_known() -> None:
    kinds = services.NUMBERS | services.FLAGS | services.LISTS | services.OBJECTS
    example = {name: SERVICE_EXAMPLE[name] for name in services.FIELDS}
    assert kinds - {"port"} == {name for name, value in example.items() if isinstance(value, bool | list | dict)}


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("enable x", ("POST", f"{S}/x/enable", {}, None)),
        ("disable x --tenant acme", ("POST", f"{S}/x/disable", {"tenant_id": "acme"}, None)),
        ("maintenance x", ("POST", f"{S}/x/maintenance", {}, None)),
        ("maintenance x --end", ("DELETE", f"{S}/x/maintenance", {}, None)),
        ("report x healthy", ("PUT", f"{S}/x/health", {}, {"status": "healthy"})),
        (
            "report x unhealthy --response-time-ms 3.5 --checked-at 2026-11-30T12:00:00Z",
            (
                "PUT",
                f"{S}/x/health",
                {},
                {"status": "unhealthy", "response_time_ms": 3.5, "checked_at": "2026-11-30T12:00:00Z"},
            ),
        ),
        ("delete x", ("DELETE", f"{S}/x", {}, None)),
        ("delete x --dependents detach", ("DELETE", f"{S}/x", {"dependents": "detach"}, None)),
        ("delete x --hard", ("DELETE", f"{S}/x", {"hard": "true"}, None)),
        ("restore x --new-name y", ("POST", f"{S}/x/restore", {}, {"new_name": "y"})),
    ],
)
def test_what_is_done_to_a_service_is_asked_for_and_said(gateway: FakeGateway, command: str, asked: Any) -> None:
    assert told(*command.split()).startswith(f"service weather ({SERVICE_EXAMPLE['id']}) ")
    assert gateway.asked == [asked]


def test_signs_of_life_are_noted_in_parts_and_who_is_not_registered_is_named(gateway: FakeGateway) -> None:
    assert told("heartbeat", *(f"s{number}" for number in range(1001))) == "1001 noted\n"
    assert [len(asked[3]["items"]) for asked in gateway.asked] == [1000, 1]
    result = run("heartbeat", "weather", "nobody")
    assert (result.exit_code, result.output) == (1, "1 noted\nhx-gateway: not registered: nobody\n")


def test_what_services_say_of_themselves_is_sent_with_their_signs_of_life(gateway: FakeGateway) -> None:
    told("heartbeat", "weather", "--ttl", "30", "--status", "unhealthy")
    assert gateway.asked[0][3] == {"items": [{"ref": "weather", "ttl_s": 30, "status": "unhealthy"}]}
    told("report", "weather", "unhealthy", "--failure-class", "connect", "--message", "nothing there")
    said = {"status": "unhealthy", "failure_class": "connect", "message": "nothing there"}
    assert gateway.asked[1][3] == said


def test_one_service_is_checked_and_why_is_said(gateway: FakeGateway) -> None:
    assert told("check", "weather", "--level", "l2").endswith("is unhealthy: no answer\n")
    assert gateway.asked == [("POST", f"{S}/weather/check", {"level": "l2"}, None)]


def test_many_are_checked_by_name_or_by_what_they_are(gateway: FakeGateway) -> None:
    assert "healthy" in told("check", "--tag", "a", "--status", "unknown")
    assert gateway.asked[0] == (
        "POST",
        f"{S}/check",
        {},
        {"selector": {"filter": {"status": ["unknown"], "tags": ["a"]}}},
    )
    result = run("check", "weather", "nobody")
    assert (result.exit_code, "not registered: nobody" in result.output) == (1, True)
    gateway.pending = 1
    assert told("check", "weather", "--wait", "0", "--json").startswith('{"pending": 1')
    late = run("check", "weather", "maps", "--wait", "1e-9")
    assert (late.exit_code, "1 not probed yet" in late.output) == (1, True)


@pytest.mark.parametrize("arguments", [(), ("weather", "--tag", "a"), ("weather", "maps", "--level", "l1")])
def test_a_check_of_what_cannot_be_meant_is_refused(gateway: FakeGateway, arguments: tuple[str, ...]) -> None:
    assert run("check", *arguments).exit_code == 1
    assert gateway.asked == []


# Import


def written(folder: Path, items: list[Any]) -> str:
    file = folder / "services.json"
    file.write_text(json.dumps(items))
    return str(file)


def test_an_import_is_sent_in_batches_and_what_failed_is_told_with_its_row(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    bad = {"status": "failed", "error": "port: must be between 1 and 65535", "code": "invalid_request", "param": "port"}
    gateway.bulk = [[{"status": "created"}] * 500, [{"status": "updated"}, bad]]
    file = written(tmp_path, [{"name": f"s{number}"} for number in range(502)])
    result = run("import", file, "--on-conflict", "update")
    assert [len(asked[3]["items"]) for asked in gateway.asked] == [500, 2]
    assert gateway.asked[0][3] | {"items": []} == {
        "mode": "partial",
        "on_conflict": "update",
        "dry_run": False,
        "items": [],
    }
    assert result.exit_code == 1
    (row,) = [line for line in result.output.splitlines() if "65535" in line]
    assert row.split()[:4] == ["502", "s501", "port", "invalid_request"]
    assert "500 created, 1 updated, 1 failed" in result.output


def test_an_import_is_told_as_json(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.bulk = [[{"status": "created"}, {"status": "failed", "error": "e", "code": "c", "param": "name"}]]
    result = run("import", written(tmp_path, [{"name": "a"}, {"name": "b"}]), "--json", "--dry-run")
    assert json.loads(result.stdout) == {
        "created": 1,
        "updated": 0,
        "restored": 0,
        "skipped": 0,
        "failed": 1,
        "dry_run": True,
        "failures": [{"row": 2, "name": "b", "param": "name", "code": "c", "error": "e"}],
    }


def test_a_dry_run_over_batches_does_not_miss_what_earlier_ones_would_have_made(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.bulk = [[{"status": "created"}] * 500, [{"status": "created"}]]
    items = [{"name": "last", "dependencies": [f"s{n}" for n in range(500)]}, *({"name": f"s{n}"} for n in range(500))]
    assert "501 created; a dry run: nothing was kept" in told("import", written(tmp_path, items), "--dry-run")
    assert gateway.asked[1][3]["items"] == [{"name": "last", "dependencies": []}]


def test_an_import_that_ends_early_says_how_far_it_came(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.bulk = [[{"status": "created"}] * 500, Refused("503: PostgreSQL is away.", 503)]
    result = run("import", written(tmp_path, [{"name": f"s{number}"} for number in range(501)]))
    assert str(result.exception) == "503: PostgreSQL is away. Done before it: 500 of 501 services."


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("{", [], "it is not JSON"),
        ("[]", [], "it has no services"),
        ('[{"name": "a", "dependencies": ["a"]}]', [], "in a circle: a → a"),
        (json.dumps([{"name": str(n)} for n in range(501)]), ["--mode", "atomic"], "all or none goes for"),
    ],
)
def test_a_file_that_cannot_be_imported_is_not_begun(
    gateway: FakeGateway, tmp_path: Path, text: str, options: list[str], says: str
) -> None:
    (tmp_path / "services.json").write_text(text)
    result = run("import", str(tmp_path / "services.json"), *options)
    assert (result.exit_code, gateway.asked) == (1, [])
    assert says in result.output


def test_a_file_that_is_not_there_is_named(gateway: FakeGateway, tmp_path: Path) -> None:
    result = run("import", str(tmp_path / "none.json"))
    assert "none.json: No such file or directory." in result.output


# Changes


@pytest.mark.parametrize(
    ("kind", "fields", "before", "after", "line"),
    [
        ("created", ["name", "port"], None, {"name": "weather", "port": 1}, "created  weather  by admin"),
        ("purged", ["name", "port"], {"name": "weather", "port": 1}, None, "purged  weather  by admin"),
        ("stale", ["stale"], {"stale": False}, {"stale": True}, "stale  weather  stale false → true  by admin"),
        ("status_changed", ["status"], {"status": "healthy"}, {"status": "unhealthy"},
         "status_changed  weather  healthy → unhealthy  by admin"),
        ("tools_changed", ["tools"], {"tools": [{"name": "b", "hash": "1"}, {"name": "c", "hash": "1"}]},
         {"tools": [{"name": "a", "hash": "1"}, {"name": "c", "hash": "2"}]},
         "tools_changed  weather  +a, -b, ~c  by admin"),
        ("updated", ["port", "version"], {"port": None, "version": "1"}, {"port": 80, "version": "2"},
         "updated  weather  port none → 80, version 1 → 2  by admin"),
        ("updated", ["description"], {"description": None}, {"description": "x\n" * 40},
         f"updated  weather  description none → {'x ' * 19}x…  by admin"),
    ],
)  # fmt: skip
def test_a_change_is_a_line(kind: str, fields: list[str], before: Any, after: Any, line: str) -> None:
    data = {"name": "weather", "changed_fields": fields, "before": before, "after": after}
    actor = {"actor": {"key": "admin", "user": None}}
    event = {"type": f"service.{kind}", "time": "2026-11-30T12:00:00.123Z", "data": {**data, **actor}}
    assert line_of(event).plain == f"2026-11-30 12:00:00  {line}"


def test_what_is_about_no_service_is_a_line_too() -> None:
    told = {"before": {"self_preservation": False}, "after": {"self_preservation": True}}
    data = {"name": None, "changed_fields": ["self_preservation"], "actor": {"key": "prober", "user": None}, **told}
    event = {"type": "registry.self_preservation", "time": "2026-11-30T12:00:00.123Z", "data": data}
    line = "registry.self_preservation  self_preservation false → true  by prober"
    assert line_of(event).plain == f"2026-11-30 12:00:00  {line}"


def test_another_history_is_told_of() -> None:
    assert "list the services anew" in line_of({"type": "registry.reset", "seq": 5}).plain


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.04, "0.04 ms"), (12.5, "12.5 ms"), (1_250.0, "1.25 s")])
def test_times_are_short(value: float | None, text: str) -> None:
    assert milliseconds(value) == text
