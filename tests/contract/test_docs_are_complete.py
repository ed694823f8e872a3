"""The documentation names everything there is, and nothing that there is not."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts.docs_reference import WITHOUT_EFFECT
from sqlalchemy import Enum
from typer.main import get_command

from hx_gateway.access.principal import Scope
from hx_gateway.admin.router import ADMINS, ANY_KEY
from hx_gateway.app import build_app
from hx_gateway.cli.main import app as command_line
from hx_gateway.db.models.registry_items import HEALTH_COLUMNS, RegistryItem
from hx_gateway.errors import HXError
from hx_gateway.events import Ending, RequestFinished, TokenUsage
from hx_gateway.gateway.cache_purge import TENANT_ADMINS
from hx_gateway.http.head_check import STATUS_OF
from hx_gateway.http.records import AccessLog
from hx_gateway.pipeline.routes import ANYONE, LOCAL_OR_ADMIN, Policy, needs
from hx_gateway.pipeline.upstream_answers import UpstreamOverloaded, UpstreamRateLimited
from hx_gateway.registry.api.router import OWN, SYNC_READ
from hx_gateway.registry.official.routes import EDIT
from hx_gateway.services.base import FailureKind
from hx_gateway.settings import OTHER_VARIABLES, Settings, variables_of
from hx_gateway.telemetry import Metrics
from tests.contract.doc_pages import PAGES, ROOT, SOURCES, blocks, name_of, read, rows, spans

TREES = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
WHO: dict[Policy, str] = {
    ANYONE: "anyone",
    LOCAL_OR_ADMIN: "this machine, or a platform admin",
    ADMINS: "an administrator",
    TENANT_ADMINS: "an administrator of a tenant",
    ANY_KEY: "any key",
    needs(Scope.ADMIN): "a platform admin",
    needs(Scope.MODELS): "a key with `models`",
    needs(Scope.PASSTHROUGH): "a key with `passthrough`",
    needs(Scope.EVENTS_WRITE): "a key with `events:write`",
    needs(Scope.EVENTS_READ): "a key with `events:read`",
    needs(Scope.SPEND_READ): "a key with `spend:read`",
    needs(Scope.REGISTRY_READ): "a key with `registry:read`",
    needs(Scope.REGISTRY_WRITE): "a key with `registry:write`",
    OWN: "a key with `registry:write`, or for its own `registry:register:…`",
    EDIT: "an administrator of a tenant, with `registry:write`",
    SYNC_READ: "an administrator of a tenant, with `registry:read`",
}
SPOKEN_PATHS = {"any other path under `/v1`": "/v1/{path}", "any other path": "/{path}"}


def calls() -> Iterator[ast.Call]:
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield node


def text_of(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


# Settings


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs_reference.py", "--check"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_setting_is_documented() -> None:
    known = {variable for name in Settings.model_fields for variable in variables_of(name)}
    text = read("reference/settings.md")
    assert sorted(known - set(spans(text))) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_page_names_a_setting_that_does_not_exist(path: Path) -> None:
    known = {variable for name in Settings.model_fields for variable in variables_of(name)} | OTHER_VARIABLES
    named = set(re.findall(r"\b(?:HX|WRAPPER)_[A-Z][A-Z_]+\b", path.read_text()))
    assert sorted(named - known) == []


def test_what_is_said_to_have_no_effect_is_what_nobody_reads() -> None:
    program = "".join(path.read_text() for path in SOURCES if path.name != "settings.py")
    own = (ROOT / "src/hx_gateway/settings.py").read_text()
    unread = {
        name
        for name in Settings.model_fields
        if not re.search(rf"\.{name}\b", program) and not re.search(rf"self\.{name}\b", own)
    }
    assert unread == WITHOUT_EFFECT


# Errors


def codes() -> set[str]:
    found: set[str | None] = set()
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found |= {
                    text_of(line.value)
                    for line in node.body
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "code"
                }
    for call in calls():
        found |= {text_of(keyword.value) for keyword in call.keywords if keyword.arg == "code"}
        if ast.unparse(call.func).endswith(("JSONObjectError", "BadHead", "._refuse")) and call.args:
            found.add(text_of(call.args[0]))
        if ast.unparse(call.func) == "_refused" and len(call.args) > 1:
            found.add(text_of(call.args[1]))
    return {code for code in found if code is not None}


def documented_codes() -> dict[str, str]:
    table = rows(read("reference/errors.md"), "| status | code | meaning, and what to do |")
    return {code: status for status, names, _ in table for code in spans(names)}


def test_the_error_codes_are_those_documented() -> None:
    assert len(codes()) > 40
    assert documented_codes().keys() == codes()


def test_each_error_code_is_documented_with_its_status() -> None:
    statuses = documented_codes()
    classes: list[type[HXError]] = [UpstreamOverloaded, UpstreamRateLimited, *HXError.__subclasses__()]
    expected = {kind.code: str(kind.status) for kind in classes if "status" in vars(kind)}
    expected |= {code: str(status) for code, status in STATUS_OF.items()}
    assert {code: statuses[code] for code in expected} == expected


# Metrics, log


def test_the_metrics_are_those_documented_with_their_labels() -> None:
    table = rows(read("reference/metrics.md"), "| metric | type | labels | what |")
    documented = {spans(name)[0]: (kind, tuple(spans(labels))) for name, kind, labels, _ in table}
    there = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            suffix = "_total" if metric._type == "counter" else ""
            there[metric._name + suffix] = (metric._type, metric._labelnames)
    assert documented == there


def test_the_events_of_the_log_are_those_documented() -> None:
    table = rows(read("reference/log.md"), "| event | level | when |")
    logged = {
        text_of(call.args[0])
        for call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("debug", "info", "warning", "error", "exception")
        and "log" in ast.unparse(call.func.value).lower()
        and call.args
    }
    assert {spans(event)[0] for event, _, _ in table} == logged - {None}


def test_the_fields_of_a_request_in_the_log_are_those_documented() -> None:
    table = rows(read("reference/log.md"), "| field | what |")
    lines: list[dict[str, object]] = []
    event = RequestFinished(
        request_id="req_1",
        route="chat_completions",
        method="POST",
        status=502,
        ending=Ending.ERROR,
        duration=1.0,
        client="192.0.2.1",
        key_id="admin",
        error_code="upstream_error",
        model="m",
        upstream="u",
        upstream_seconds=0.5,
        first_byte_seconds=0.6,
        usage=TokenUsage(prompt_tokens=1, completion_tokens=2),
        cache="miss",
    )
    AccessLog(lambda line: lines.append(dict(line))).emit(event)
    documented = {name for names, _ in table for name in spans(names)}
    assert documented == lines[0].keys() - {"event", "level"}


def test_every_reason_of_a_lost_store_is_documented() -> None:
    table = rows(read("reference/http.md"), "| field | values |")
    reasons = next(spans(values) for field, values in table if field == "`last_error`")
    assert set(reasons) == {kind.value for kind in FailureKind}


# The registry


def test_the_fields_of_a_service_are_those_documented() -> None:
    documented = {
        name for cell, _, _ in rows(read("reference/registry.md"), "| field | type | what |") for name in spans(cell)
    }
    assert documented == RegistryItem.field_names()


def test_the_enumerations_of_the_registry_are_those_documented() -> None:
    table = rows(read("reference/registry.md"), "| enumeration | values |")
    columns = [*RegistryItem.__table__.columns, *HEALTH_COLUMNS.values()]
    there = {column.type.name: column.type.enums for column in columns if isinstance(column.type, Enum)}
    assert {spans(name)[0]: spans(values) for name, values in table} == there


# Routes


def test_the_routes_are_those_documented_with_who_may_use_them(tmp_path: Path) -> None:
    documented = {}
    for cell, who, _ in rows(read("reference/http.md"), "| route | who | what |"):
        if cell in SPOKEN_PATHS:
            documented["*", SPOKEN_PATHS[cell]] = who
            continue
        for route in spans(cell):
            method, _, path = route.rpartition(" ")
            documented[method or "*", path] = who
            if cell.endswith("and below"):
                documented["*", f"{path}/{{rest}}"] = who
    # Nothing is opened: a gateway that has a database has all routes.
    settings = Settings(PG_URL="postgresql://hx@127.0.0.1:1/hx", HX_DATA_DIR=str(tmp_path))
    routes = build_app(settings).pipeline.routes.routes
    assert documented == {(method, route.path): WHO[route.policy] for route in routes for method in route.methods}


# Commands


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands below ``command`` that do something, by their whole names."""
    for part, below in vars(command).get("commands", {}).items():
        whole = f"{name} {part}".strip()
        if vars(below).get("commands"):
            yield from leaves(below, whole)
        else:
            yield whole, below


def test_the_commands_and_their_options_are_those_documented() -> None:
    text = read("reference/commands.md")
    commands = dict(leaves(get_command(command_line)))
    assert {spans(cell)[0] for cell, _ in rows(text, "| command | what |")} == {
        f"hx-gateway {name}" for name in commands
    }
    documented = {
        (command, option)
        for names, options, _ in rows(text, "| command | option | what |")
        for command in spans(names)
        for option in spans(options)
    }
    assert documented == {
        (name, vars(parameter).get("metavar") or parameter.opts[0])
        for name, command in commands.items()
        for parameter in command.params
        if parameter.opts[0] != "--help"
    }


def typed() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of ours in the examples, by page, as words."""
    for path in PAGES:
        for block in blocks(path.read_text()):
            text = re.sub(r"\\\n\s*", "", block.text) if block.language in ("sh", "") else ""
            # An account may have the same name: `sudo -u hx-gateway hx-gateway …`.
            for line in re.findall(r"(?:^|[ \t(])(?:\.venv/bin/)?hx-gateway (?!hx-)([a-z].*)", text, re.MULTILINE):
                words = shlex.split(re.split(r"\)$| [|>&] |; ", line)[0], comments=True)
                yield f"{name_of(path)}: {line}", words


EXAMPLES = dict(typed())


def test_examples_of_commands_are_found() -> None:
    assert len(EXAMPLES) > 80


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_command_in_an_example_has_the_arguments_that_it_is_given(example: str) -> None:
    command: Any = get_command(command_line)
    context, words = None, EXAMPLES[example]
    while True:
        # Raises for what is not a command, an option or an argument.
        context = command.make_context(command.name, list(words), parent=context)
        if not vars(command).get("commands"):
            return
        _, below, words = command.resolve_command(context, [*context._protected_args, *context.args])
        command = below


def test_the_make_targets_are_those_documented() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    documented = {span for cell, _ in rows(read("reference/commands.md"), "| target | what |") for span in spans(cell)}
    assert documented == {f"make {target}" for target in targets}
