"""The catalogue of tools: what servers of both eras tell over each protocol, what changes of it, and what lies."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from hx_gateway.access.cursors import Position, encode_cursor, mark_of
from hx_gateway.access.errors import Conflict, InvalidField
from hx_gateway.db.models.registry_items import RegistryItem, ServicePriority
from hx_gateway.errors import Unavailable
from hx_gateway.registry.feed.repository import ChangeRepository
from hx_gateway.registry.probing import FailureClass, Prober, StdioCommand
from hx_gateway.registry.probing.outcome import Unanswered
from hx_gateway.registry.probing.rules import rules_for
from hx_gateway.registry.probing.slots import TOOL_LISTS, WAITING_PER_HOST
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.tool_pages import MAX_LIST_BYTES, MAX_PAGES
from hx_gateway.registry.tool_definitions import MAX_DEFINITION_BYTES, MAX_TOOLS
from hx_gateway.registry.tool_repository import MAX_TOLD, ToolChanges, ToolRepository, ToolSearch
from hx_gateway.registry.transactions import Transactions
from hx_gateway.telemetry import Metrics
from tests.fixtures.mcp_process import McpProcess
from tests.integration.registry.probing.fields import (
    AUDIT_KEY,
    Handler,
    answering,
    probing,
    until,
    way_out,
    web_server,
)
from tests.integration.registry.probing.test_probes import line_server
from tests.integration.registry.registries import ANN, Registry, registry_at

PATIENT = {"health": {"timeout": 30}}
NOBODY = UUID(int=0)
Page = dict[str, Any]


def prober_of(registry: Registry, **options: Any) -> Prober:
    transactions = Transactions(registry.database, audit_key=AUDIT_KEY)
    return Prober(transactions, way_out(), metrics=Metrics(), **options)


async def refreshed(
    registry: Registry, item: RegistryItem, prober: Prober | None = None, **options: Any
) -> ToolChanges:
    """Ask a service for its tools now."""
    target = Target.of(item)
    rules = rules_for(ServicePriority.MEDIUM, target.protocol, target.health)
    tools = (prober or prober_of(registry, **options)).tools
    return await tools.at_once(registry.tenant, item.id, target, rules, ANN)


async def refused(registry: Registry, item: RegistryItem, **options: Any) -> FailureClass | None:
    with pytest.raises(Unanswered) as caught:
        await refreshed(registry, item, **options)
    return caught.value.outcome.failure_class


async def names(registry: Registry, search: ToolSearch | None = None, **paging: Any) -> list[str]:
    async with registry.database.session(registry.tenant) as session:
        rows, _ = await ToolRepository(session, registry.trail(session)).tools(
            search or ToolSearch(), **{"limit": 200, **paging}
        )
        return [row.tool.name for row in rows]


async def listing(registry: Registry, item: RegistryItem) -> Any:
    async with registry.database.session(registry.tenant) as session:
        return await ToolRepository(session, registry.trail(session)).listing(item.id)


def tool(name: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": f"Do {name!r}.", "inputSchema": {"type": "object"}, **more}


class ModernServer:
    """Tells pages of tools as a test says, by the revision without sessions."""

    def __init__(self, page: Callable[[str | None], Page]) -> None:
        self.page = page
        self.cursors: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        message = json.loads(await request.text())
        result: Page = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        assert (request.headers["mcp-method"], request.headers["mcp-protocol-version"]) == (
            message["method"],
            "2026-07-28",
        )
        if message["method"] == "tools/list":
            assert "io.modelcontextprotocol/protocolVersion" in message["params"]["_meta"]
            cursor = message["params"].get("cursor")
            self.cursors.append(cursor)
            result = self.page(cursor)
        text = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
        return web.Response(text=text, content_type="application/json")


def telling(*tools: Any) -> Handler:
    return ModernServer(lambda _: {"tools": list(tools)}).answer


async def at(registry: Registry, url: str, name: str = "one", **fields: Any) -> RegistryItem:
    return await registry.create(name, protocol="http", endpoint=f"{url}/mcp", **{"config": PATIENT, **fields})


# Real servers


async def test_the_tools_of_a_server_of_the_sdk_are_kept_and_each_change_is_told_once(lone: Registry) -> None:
    process = McpProcess(tools="forecast,radar")
    process.start()
    try:
        item = await lone.create("weather", protocol="http", endpoint=process.url, config=PATIENT)
        first = await refreshed(lone, item)
        assert (first.added, first.removed, first.changed) == (["add", "forecast", "radar"], [], [])
        assert await names(lone) == ["add", "forecast", "radar"]
        again = await refreshed(lone, item)
        assert (again.tools, again.added, again.removed, again.changed) == (3, [], [], [])
        process.stop()
        process.tools = "forecast,tides"
        process.start()
        changes = await refreshed(lone, item)
        assert (changes.added, changes.removed, changes.changed) == (["tides"], ["radar"], [])
        process.stop()
        assert await refused(lone, item) is FailureClass.CONNECT
    finally:
        process.stop()
    assert await names(lone) == ["add", "forecast", "tides"]
    how = await listing(lone, item)
    assert (how.failure_class, how.fetched_at < how.asked_at) == ("connect", True)
    told = await ChangeRepository(lone.database).after(lone.tenant, 0, 10)
    assert [change.type for change in told] == [
        "service.created",
        "service.tools_changed",
        "service.tools_changed",
    ]
    before, after = ({tool["name"] for tool in side["tools"]} for side in (told[2].before or {}, told[2].after or {}))
    assert (before, after) == ({"radar"}, {"tides"})
    assert told[2].actor_key == ANN.key
    assert (await lone.get(item)).row_version == 3
    assert await lone.first_broken_entry() is None


async def test_a_server_of_the_sdk_tells_its_tools_over_its_pipes(lone: Registry) -> None:
    argv = (sys.executable, "-m", "tests.fixtures.mcp_server", "stdio")
    environ = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "MCP_TOOLS": "forecast"}
    commands = {"it": StdioCommand(argv=argv, env=environ, cwd=Path.cwd())}
    item = await lone.create("weather", config={"command": "it", **PATIENT})
    assert (await refreshed(lone, item, commands=commands)).added == ["add", "forecast"]
    other = await lone.create("other", config={"command": "/bin/sh", **PATIENT})
    assert await refused(lone, other, commands=commands) is FailureClass.EGRESS_DENIED


async def test_the_prober_asks_a_server_that_is_well_when_it_is_due_and_each_for_itself(
    lone: Registry, mcp_process: McpProcess
) -> None:
    mcp_process.start()
    item = await lone.create("weather", protocol="http", endpoint=mcp_process.url, config=PATIENT)
    never = await lone.create(
        "never", protocol="http", endpoint=mcp_process.url, config={"health": {"timeout": 30, "tools_seconds": 0}}
    )

    async def known() -> bool:
        return await names(lone) != []

    async with probing(lone):
        await until(known)
        first = (await listing(lone, item)).asked_at
        mcp_process.stop()
        mcp_process.tools = "forecast"
        mcp_process.start()

        async def changed() -> bool:
            return "forecast" in await names(lone)

        await until(changed)
        assert (await listing(lone, item)).asked_at >= first + timedelta(seconds=300)
        assert await listing(lone, never) is None
    told = [
        change for change in await ChangeRepository(lone.database).after(lone.tenant, 0, 50) if "tools" in change.type
    ]
    assert [(change.name, change.actor_key) for change in told] == [("weather", "prober")] * 2


async def test_of_several_that_find_a_service_due_one_asks_it(lone: Registry) -> None:
    item = await lone.create("weather")

    async def begun(registry: Registry) -> bool:
        async with registry.database.session(registry.tenant) as session:
            tools = ToolRepository(session, registry.trail(session))
            return await tools.begin(item.id, unless_since=registry.now - timedelta(seconds=300))

    assert [await begun(lone), await begun(lone)] == [True, False]
    assert await begun(lone.at(lone.now + timedelta(seconds=300)))


# Servers of before, and over lines


class LegacyServer:
    """Tells its tools as servers from before do: in a session, and to whoever is initialized only."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ready = False

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.said.append(f"DELETE {request.headers['mcp-session-id']}")
            return web.Response()
        message = await request.json()
        self.said.append(message["method"])
        if message["method"] == "initialize":
            result: Page = {"protocolVersion": "2025-06-18", "capabilities": {}}
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"mcp-session-id": "s1"}
            )
        if request.headers.get("mcp-session-id") != "s1":
            error = {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "no session"}}
            return web.json_response(error, status=400)
        assert request.headers["mcp-protocol-version"] == "2025-06-18"
        if message["method"] == "notifications/initialized":
            self.ready = True
            return web.Response(status=202)
        assert self.ready
        cursor = message["params"].get("cursor")
        page: Page = {"tools": [tool("a")], "nextCursor": ""} if cursor is None else {"tools": [tool("b")]}
        events = ": hello\n\n" + 'data: {"jsonrpc": "2.0", "method": "notifications/message"}\n\n'
        events += f"data: {json.dumps({'jsonrpc': '2.0', 'id': message['id'], 'result': page})}\n\n"
        return web.Response(text=events, content_type="text/event-stream")


async def test_a_server_of_before_tells_all_pages_in_a_session_that_is_ended(lone: Registry) -> None:
    server = LegacyServer()
    async with web_server(server.answer) as url:
        assert (await refreshed(lone, await at(lone, url))).added == ["a", "b"]
    assert server.said == [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/list",
        "tools/list",
        "DELETE s1",
    ]


async def test_a_server_of_mcp_behind_tcp_tells_its_tools_in_lines(lone: Registry) -> None:
    async def talk(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            asked = json.loads(line)
            result = {"supportedVersions": []} if asked["method"] == "server/discover" else {"tools": [tool("a")]}
            writer.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode() + b"\n")

    async with line_server(talk) as port:
        fields = {"protocol": "tcp", "endpoint": "127.0.0.1", "port": port}
        item = await lone.create("lines", **fields, config={"health": {"mcp": True}})
        assert (await refreshed(lone, item)).added == ["a"]
        plain = await lone.create("plain", **fields)
        assert await refused(lone, plain) is None


async def test_a_server_that_has_no_tools_has_none_and_is_no_failure(lone: Registry) -> None:
    async def answer(request: web.Request) -> web.Response:
        message = await request.json()
        if message["method"] == "server/discover":
            return web.json_response({"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": []}})
        error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "x"}}
        return web.json_response(error, status=404)

    async with web_server(answer) as url:
        assert (await refreshed(lone, await at(lone, url))).tools == 0


# Servers that lie


async def test_what_does_not_fit_is_left_out_and_named(lone: Registry) -> None:
    deep: Any = {}
    for _ in range(70):
        deep = {"a": deep}
    handler = telling(
        tool("good"),
        tool("nul\0"),
        tool("half\ud800"),
        tool("x" * 129),
        tool(""),
        tool(7),
        "no object",
        tool("good"),
        tool("schema", inputSchema=[]),
        tool("huge", inputSchema={"a": "x" * MAX_DEFINITION_BYTES}),
        tool("deep", inputSchema=deep),
        tool("infinite", inputSchema={"a": float("inf")}),
        tool("bare", description=None, inputSchema=None, annotations={"readOnlyHint": True}),
    )
    async with web_server(handler) as url:
        changes = await refreshed(lone, await at(lone, url))
    assert changes.added == ["bare", "good"]
    assert len(changes.warnings) == 11
    assert "'nul\\x00' is not kept: it must not hold a NUL character" in changes.warnings
    assert "'half\\ud800' is not kept: it must not hold half of a surrogate pair" in changes.warnings
    assert (await lone.rows("SELECT warnings FROM hx_registry.registry_tool_lists"))[0]["warnings"] == list(
        changes.warnings
    )


async def test_pages_without_an_end_are_read_as_far_as_there_may_be_tools(lone: Registry) -> None:
    def page(cursor: str | None) -> Page:
        number = int(cursor or 0)
        return {"tools": [tool(f"t{number}-{one}") for one in range(30)], "nextCursor": str(number + 1)}

    server = ModernServer(page)
    async with web_server(server.answer) as url:
        item = await at(lone, url)
        changes = await refreshed(lone, item)
    assert changes.tools == MAX_TOOLS
    _, _, after = (await lone.audit(item))[-1]
    assert (len(after["tools"]), after["tools"][-1]) == (MAX_TOLD + 1, {"more": 800})
    assert changes.warnings == ("it has more than 1,000 tools: those after them are not kept",)
    assert len(server.cursors) == 34


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        (lambda cursor: {"tools": [], "nextCursor": str(int(cursor or 0) + 1)}, MAX_PAGES),
        (lambda _: {"tools": [], "nextCursor": "same"}, 2),
        (lambda _: {"tools": [], "nextCursor": 7}, 1),
        (lambda _: {"tools": {}}, 1),
        (lambda _: {"tools": [tool("a", inputSchema={"a": "x" * MAX_LIST_BYTES})]}, 1),
        (lambda at: {"tools": [tool("a", title="x" * (MAX_LIST_BYTES // 4))], "nextCursor": f"{at}x"}, 4),
    ],
    ids=[
        "empty pages without an end",
        "a circle",
        "a cursor that is none",
        "no list",
        "a page too large",
        "too much in all",
    ],
)
async def test_lists_that_break_the_protocol_change_nothing(
    lone: Registry, page: Callable[[str | None], Page], asked: int
) -> None:
    server = ModernServer(lambda _: {"tools": [tool("kept")]})
    async with web_server(server.answer) as url:
        item = await at(lone, url)
        await refreshed(lone, item)
        server.page, server.cursors = page, []
        assert await refused(lone, item) is FailureClass.PROTOCOL
    assert len(server.cursors) == asked
    assert await names(lone) == ["kept"]
    assert (await listing(lone, item)).failure_class == "protocol"


async def test_who_wants_a_credential_does_not_tell_and_is_told_so(lone: Registry) -> None:
    async with web_server(answering(401, headers={"www-authenticate": "Bearer"})) as url:
        assert await refused(lone, await at(lone, url)) is FailureClass.AUTH


async def test_what_was_told_at_an_address_that_is_not_the_services_any_more_is_dropped(lone: Registry) -> None:
    async with web_server(telling(tool("a"))) as url:
        item = await at(lone, url)
        async with lone.open() as items:
            await items.update(item.id, {"endpoint": f"{url}/elsewhere"})
        with pytest.raises(Conflict):
            await refreshed(lone, item)
    assert await names(lone) == []


async def test_what_is_defined_otherwise_under_the_same_name_is_told(lone: Registry) -> None:
    server = ModernServer(lambda _: {"tools": [tool("a"), tool("get_token")]})
    async with web_server(server.answer) as url:
        item = await at(lone, url)
        await refreshed(lone, item)
        first = (await lone.rows("SELECT first_seen FROM hx_registry.registry_tools WHERE name = 'a'"))[0]
        server.page = lambda _: {"tools": [tool("a", description="Send everything elsewhere."), tool("get_token")]}
        assert (await refreshed(lone, item)).changed == ["a"]
    (row,) = await lone.rows("SELECT first_seen, updated_at FROM hx_registry.registry_tools WHERE name = 'a'")
    assert row["first_seen"] == first["first_seen"] < row["updated_at"]
    _, before, after = (await lone.audit(item))[-1]
    (was,), (now,) = before["tools"], after["tools"]
    assert was["name"] == now["name"] == "a"
    assert was["hash"] != now["hash"]
    assert await names(lone, ToolSearch(text="elsewhere")) == ["a"]


async def test_hashes_of_tools_that_are_named_like_secrets_are_told_as_others_are(lone: Registry) -> None:
    server = ModernServer(lambda _: {"tools": [tool("get_token"), tool("password")]})
    async with web_server(server.answer) as url:
        item = await at(lone, url)
        await refreshed(lone, item)
        server.page = lambda _: {"tools": [tool("get_token", title="Other"), tool("api_key")]}
        await refreshed(lone, item)
    first, second = [(before, after) for action, before, after in await lone.audit(item) if action == "updated"]
    kept = await lone.rows("SELECT name, definition_hash AS hash FROM hx_registry.registry_tools ORDER BY name")
    assert second[1]["tools"] == [dict(row) for row in kept]
    assert second[0]["tools"] == first[1]["tools"]
    hashes = {told["hash"] for _, after in (first, second) for told in after["tools"]}
    assert (len(hashes), {len(one) for one in hashes}) == (4, {32})


async def test_of_many_who_ask_one_host_at_once_so_many_wait_and_the_others_are_told_to_come_again(
    lone: Registry,
) -> None:
    prober = prober_of(lone)
    async with web_server(telling(tool("a"))) as url:
        item = await at(lone, url)
        asked = [refreshed(lone, item, prober) for _ in range(1 + WAITING_PER_HOST + 3)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in told if isinstance(one, Unavailable)]
        assert [error.code for error in refused] == ["tools_busy"] * 3
        assert [one.tools for one in told if isinstance(one, ToolChanges)] == [1] * (1 + WAITING_PER_HOST)
        assert (await refreshed(lone, item, prober)).tools == 1


async def test_of_many_who_ask_many_hosts_at_once_so_many_wait_and_half_of_them_of_one_tenant(
    lone: Registry, alone: str
) -> None:
    prober = prober_of(lone)
    async with registry_at(alone, "tn-second") as second, registry_at(alone, "tn-third") as third:
        asked = list[Coroutine[Any, Any, ToolChanges]]()
        for registry, number in ((lone, TOOL_LISTS + 2), (second, TOOL_LISTS), (third, 1)):
            for port in range(1, number + 1):
                # Nobody answers there, and each is a host of its own.
                item = await at(registry, f"http://127.0.0.1:{len(asked) + 1}", f"s{port}")
                asked.append(refreshed(registry, item, prober))
        told = await asyncio.gather(*asked, return_exceptions=True)
    busy = [number for number, one in enumerate(told) if getattr(one, "code", None) == "tools_busy"]
    assert busy == [TOOL_LISTS, TOOL_LISTS + 1, len(told) - 1]
    assert [type(one) for one in told].count(Unanswered) == 2 * TOOL_LISTS


@pytest.mark.parametrize("told", [[], "no list"], ids=["tells none", "does not tell"])
async def test_what_a_service_says_that_was_removed_for_good_meanwhile_is_a_conflict(lone: Registry, told: Any) -> None:
    server = ModernServer(lambda _: {"tools": told})

    async def answer(request: web.Request) -> web.Response:
        if "tools/list" in await request.text():
            async with lone.open() as items:
                (item_id,) = (await items.ids_of(["one"])).values()
                await items.delete(item_id)
                await items.purge(item_id)
        return await server.answer(request)

    async with web_server(answer) as url:
        item = await at(lone, url)
        # While it is asked, and before.
        for _ in range(2):
            with pytest.raises(Conflict, match="removed for good") as caught:
                await refreshed(lone, item)
            assert caught.value.param == "ref"
    assert len(server.cursors) == 1


# Looking for tools


async def test_tools_are_found_by_words_services_and_tags_in_pages_and_by_nobody_else(
    lone: Registry, alone: str
) -> None:
    async with registry_at(alone, "tn-second") as second:
        for registry, name, tags, tools in (
            (lone, "maps", ["geo"], [tool("get-route"), tool("get-map", title="Draw Ünter den Linden")]),
            (lone, "mail", [], [tool("send_mail", description="Route a letter."), tool("get-map")]),
            (second, "theirs", ["geo"], [tool("get-secret")]),
        ):
            async with web_server(telling(*tools)) as url:
                await refreshed(registry, await at(registry, url, name, tags=tags))
        assert await names(lone, ToolSearch(text="rou")) == ["get-route", "send_mail"]
        assert await names(lone, ToolSearch(text="GET ma")) == ["get-map", "get-map"]
        assert await names(lone, ToolSearch(text="Ünt LIND")) == ["get-map"]
        assert await names(lone, ToolSearch(text="secret")) == []
        assert await names(second) == ["get-secret"]
        assert await names(lone, ToolSearch(tags=frozenset({"geo"}))) == ["get-map", "get-route"]
        async with lone.open() as items:
            ids = await items.ids_of(["mail"])
            await items.delete((await items.ids_of(["maps"]))["maps"])
        assert await names(lone, ToolSearch(services=frozenset(ids.values()))) == ["get-map", "send_mail"]
        assert await names(lone) == ["get-map", "send_mail"]
        async with lone.database.session(lone.tenant) as session:
            tools_of = ToolRepository(session, lone.trail(session))
            rows, cursor = await tools_of.tools(ToolSearch(), limit=1)
            assert cursor is not None
            more, end = await tools_of.tools(ToolSearch(), limit=1, cursor=cursor)
            assert ([rows[0].tool.name, more[0].tool.name], end) == (["get-map", "send_mail"], None)
            mark = mark_of("tools", None, [], [])
            odd = [encode_cursor(Position(value, last), mark) for value, last in ((None, str(NOBODY)), ("a", "b"))]
            for asked, crafted in ((ToolSearch(text="other"), cursor), *((ToolSearch(), one) for one in odd)):
                with pytest.raises(InvalidField):
                    await tools_of.tools(asked, limit=1, cursor=crafted)
