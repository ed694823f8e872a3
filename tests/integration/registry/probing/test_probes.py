"""Each protocol's probe against servers that answer, refuse, hang and lie."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hx_gateway.db.models.registry_items import ServicePriority, ServiceProtocol
from hx_gateway.registry.probing.http_probe import HttpProbe
from hx_gateway.registry.probing.mcp_messages import answer_in
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, Verdict
from hx_gateway.registry.probing.probes import Probes
from hx_gateway.registry.probing.rules import rules_for
from hx_gateway.registry.probing.stdio_probe import StdioCommand
from hx_gateway.registry.probing.target import Target
from tests.fixtures.gateway import free_port
from tests.fixtures.mcp_process import McpProcess
from tests.integration.registry.probing.fields import Handler, answering, way_out, web_server

HTTP, STDIO = ServiceProtocol.HTTP, ServiceProtocol.STDIO
TCP, UNIX, WEBSOCKET = ServiceProtocol.TCP, ServiceProtocol.UNIX_SOCKET, ServiceProtocol.WEBSOCKET
SERVER = (sys.executable, "-m", "tests.fixtures.mcp_server")
PATIENT = {"health": {"timeout": 30}}
HASTY = {"health": {"timeout": 0.5}}


async def probe(protocol: ServiceProtocol, *, commands: Any = None, sockets: Any = (), **fields: Any) -> ProbeOutcome:
    target = Target(protocol=protocol, **fields)
    probes = Probes(way_out(sockets=sockets), commands or {})
    return await probes.probe(target, rules_for(ServicePriority.MEDIUM, protocol, target.health))


async def probe_http(handler: Handler, **fields: Any) -> ProbeOutcome:
    async with web_server(handler) as url:
        return await probe(HTTP, endpoint=f"{url}/mcp", **fields)


@asynccontextmanager
async def line_server(answer: Any, *, path: Path | None = None) -> AsyncIterator[int]:
    """Serve TCP, or a Unix socket; ``answer`` gets reader and writer. Give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    made = asyncio.start_unix_server(serve, path) if path else asyncio.start_server(serve, "127.0.0.1", 0)
    server = await made
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def mcp_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = json.loads(await reader.readline())
    result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
    writer.write(b"starting up\n" + json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode())
    writer.write(b"\n")
    await writer.drain()
    await reader.read()


# HTTP: servers of MCP


async def test_a_server_of_the_sdk_is_ready(mcp_process: McpProcess) -> None:
    mcp_process.start()
    found = await probe(HTTP, endpoint=mcp_process.url, config=PATIENT)
    assert (found.verdict, found.level, found.failure_class) == (Verdict.HEALTHY, Level.READY, None)
    assert found.response_time_ms is not None
    assert found.response_time_ms > 0


async def test_the_wrong_path_of_a_server_of_the_sdk_is_told(mcp_process: McpProcess) -> None:
    mcp_process.start()
    found = await probe(HTTP, endpoint=mcp_process.url + "/elsewhere", config=PATIENT)
    assert (found.failure_class, found.level) == (FailureClass.HTTP_STATUS, Level.REACHABLE)
    assert "404" in (found.reason or "")


class LegacyServer:
    """Answers as servers from before 2026-07-28 do: sessions, and an error for whoever has none."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.methods: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            self.methods.append("DELETE")
            self.sessions.discard(request.headers["mcp-session-id"])
            return web.Response(status=200)
        message = await request.json()
        self.methods.append(message["method"])
        session = f"session-{len(self.methods)}"
        self.sessions.add(session)
        headers = {"mcp-session-id": session}
        if message["method"] != "initialize":
            error = {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "no session"}}
            return web.json_response(error, status=400, headers=headers)
        stream = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await stream.prepare(request)
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
        await stream.write(f": hello\n\nevent: message\ndata: {answer}\n\n".encode())
        # It never ends by itself.
        await asyncio.sleep(20)
        return stream


async def test_a_server_of_before_is_ready_and_keeps_no_session_of_the_probe() -> None:
    server = LegacyServer()
    found = await probe_http(server.answer)
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)
    assert server.methods == ["server/discover", "DELETE", "initialize", "DELETE"]
    assert server.sessions == set()


async def test_a_server_of_before_is_remembered_as_one_until_it_is_none() -> None:
    server, asked = LegacyServer(), HttpProbe(way_out())
    modern = False

    async def answer(request: web.Request) -> web.StreamResponse:
        if not modern:
            return await server.answer(request)
        message = await request.json()
        server.methods.append(message["method"])
        if message["method"] == "initialize":
            error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "x"}}
            return web.json_response(error, status=404)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": {"supportedVersions": []}})

    async with web_server(answer) as url:
        target = Target(protocol=HTTP, endpoint=url)
        assert (await asked.probe(target)).ok
        server.methods.clear()
        assert (await asked.probe(target)).ok
        assert server.methods == ["initialize", "DELETE"]
        server.methods.clear()
        modern = True
        assert (await asked.probe(target)).ok
        assert (await asked.probe(target)).ok
        assert server.methods == ["initialize", "server/discover", "server/discover"]


@pytest.mark.parametrize("status", [401, 403])
async def test_who_wants_a_credential_is_well(status: int) -> None:
    found = await probe_http(answering(status, headers={"www-authenticate": "Bearer"}))
    assert (found.verdict, found.auth_required, found.level) == (Verdict.HEALTHY, True, Level.REACHABLE)


@pytest.mark.parametrize("status", [401, 403])
async def test_who_refuses_without_saying_what_it_wants_is_not(status: int) -> None:
    found = await probe_http(answering(status))
    assert (found.verdict, found.failure_class) == (Verdict.FAILED, FailureClass.AUTH)


@pytest.mark.parametrize("status", [404, 405])
async def test_a_wrong_endpoint_is_told(status: int) -> None:
    found = await probe_http(answering(status))
    assert found.failure_class is FailureClass.HTTP_STATUS
    assert "not the address of its MCP endpoint" in (found.reason or "")


async def test_a_web_page_is_no_server_of_mcp() -> None:
    found = await probe_http(answering(200, text="<html>hello</html>", content_type="text/html"))
    assert found.failure_class is FailureClass.NOT_MCP
    assert "web page" in (found.reason or "")


async def test_json_of_another_kind_is_no_server_of_mcp() -> None:
    found = await probe_http(answering(200, text='{"ok": true}', content_type="application/json"))
    assert found.failure_class is FailureClass.NOT_MCP


async def test_a_server_that_fails_is_told_by_its_status() -> None:
    found = await probe_http(answering(503))
    assert (found.failure_class, found.reason) == (FailureClass.HTTP_STATUS, "answered with status 503")


async def test_a_server_that_refuses_initialize_too_breaks_the_protocol() -> None:
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "secret-text"}}
    found = await probe_http(answering(400, text=json.dumps(error), content_type="application/json"))
    assert found.failure_class is FailureClass.PROTOCOL
    assert "-32603" in (found.reason or "")
    assert "secret-text" not in (found.reason or "")


async def test_a_redirect_is_not_followed() -> None:
    found = await probe_http(answering(302, headers={"location": "http://127.0.0.1:1/"}))
    assert found.failure_class is FailureClass.EGRESS_DENIED


async def test_a_server_that_hangs_runs_out_of_time() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(20)
        return web.Response()

    found = await probe_http(hang, config=HASTY)
    assert (found.failure_class, found.reason) == (FailureClass.TIMEOUT, "did not answer within 0.5 s")


async def test_nobody_there_is_a_connection_refused() -> None:
    found = await probe(HTTP, endpoint=f"http://127.0.0.1:{free_port()}/mcp")
    assert found.failure_class is FailureClass.CONNECT


async def test_plain_http_where_tls_is_expected_is_told() -> None:
    async with web_server(answering()) as url:
        found = await probe(HTTP, endpoint=url.replace("http:", "https:"))
    assert found.failure_class is FailureClass.TLS


async def test_a_name_that_nobody_knows_is_told() -> None:
    found = await probe(HTTP, endpoint="http://nowhere.example/mcp")
    assert found.failure_class is FailureClass.DNS


async def test_an_address_that_is_not_allowed_is_never_dialled() -> None:
    found = await probe(HTTP, endpoint="http://169.254.169.254/latest")
    assert found.failure_class is FailureClass.EGRESS_DENIED
    assert "169.254" not in (found.reason or "")


async def test_a_service_without_an_endpoint_is_not_asked() -> None:
    assert (await probe(HTTP)).verdict is Verdict.UNASKED


# HTTP: services with a health check of their own


async def test_a_health_check_that_answers_is_enough() -> None:
    async with web_server(answering(204)) as url:
        found = await probe(HTTP, endpoint="http://127.0.0.1:1/", health_check_url=f"{url}/healthz")
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)


async def test_a_health_check_that_fails_is_told_by_its_status() -> None:
    async with web_server(answering(503)) as url:
        found = await probe(HTTP, health_check_url=f"{url}/healthz")
    assert found.failure_class is FailureClass.HTTP_STATUS


async def test_one_that_is_asked_too_often_keeps_its_state_and_says_when_to_come_back() -> None:
    async with web_server(answering(429, headers={"retry-after": "120"})) as url:
        found = await probe(HTTP, health_check_url=f"{url}/healthz")
    assert (found.verdict, found.retry_after_seconds) == (Verdict.UNDECIDED, 120.0)


# WebSocket


async def test_a_websocket_that_answers_a_ping_is_ready() -> None:
    async def upgrade(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async with web_server(upgrade) as url:
        found = await probe(WEBSOCKET, endpoint=url.replace("http:", "ws:"))
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)


@pytest.mark.parametrize(
    ("status", "verdict", "failure_class"),
    [
        (401, Verdict.HEALTHY, None),
        (403, Verdict.FAILED, FailureClass.AUTH),
        (404, Verdict.FAILED, FailureClass.HTTP_STATUS),
        (429, Verdict.UNDECIDED, None),
        (200, Verdict.FAILED, FailureClass.HTTP_STATUS),
    ],
)
async def test_a_refused_upgrade_is_told_by_its_status(
    status: int, verdict: Verdict, failure_class: FailureClass | None
) -> None:
    async with web_server(answering(status)) as url:
        found = await probe(WEBSOCKET, endpoint=url.replace("http:", "ws:"))
    assert (found.verdict, found.failure_class) == (verdict, failure_class)


# TCP and Unix sockets


async def test_whoever_takes_a_tcp_connection_is_there() -> None:
    async with line_server(mcp_lines) as port:
        found = await probe(TCP, endpoint="127.0.0.1", port=port)
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.REACHABLE)


@pytest.mark.parametrize(
    ("expect", "verdict"), [("+PONG", Verdict.HEALTHY), ("never said", Verdict.FAILED)]
)  # fmt: skip
async def test_what_a_tcp_service_is_to_say_is_waited_for(expect: str, verdict: Verdict) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"PING\r\n"
        writer.write(b"hello +PO")
        await writer.drain()
        writer.write(b"NG\r\n")
        await writer.drain()

    config = {"health": {"send": "PING\r\n", "expect": expect}}
    async with line_server(answer) as port:
        found = await probe(TCP, endpoint=f"tcp://127.0.0.1:{port}", config=config)
    assert found.verdict is verdict


async def test_a_server_of_mcp_behind_tcp_is_asked_in_lines() -> None:
    async with line_server(mcp_lines) as port:
        found = await probe(TCP, endpoint="127.0.0.1", port=port, config={"health": {"mcp": True}})
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)


async def test_a_server_of_mcp_behind_a_unix_socket_is_asked_in_lines(tmp_path: Path) -> None:
    path = tmp_path / "mcp.sock"
    async with line_server(mcp_lines, path=path):
        found = await probe(UNIX, endpoint=str(path), sockets=(tmp_path,), config={"health": {"mcp": True}})
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)


async def test_a_unix_socket_outside_of_the_allowed_folders_is_never_dialled(tmp_path: Path) -> None:
    path = tmp_path / "mcp.sock"
    async with line_server(mcp_lines, path=path):
        found = await probe(UNIX, location=f"unix://{path}", sockets=(tmp_path / "other",))
    assert found.failure_class is FailureClass.EGRESS_DENIED


async def test_a_unix_socket_that_nobody_listens_on_refuses(tmp_path: Path) -> None:
    path = tmp_path / "mcp.sock"
    async with line_server(mcp_lines, path=path):
        os.link(path, tmp_path / "left.sock")
    found = await probe(UNIX, endpoint=str(tmp_path / "left.sock"), sockets=(tmp_path,))
    assert found.failure_class is FailureClass.CONNECT


async def test_a_service_that_says_something_else_in_lines_is_no_server_of_mcp() -> None:
    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()

    async with line_server(chat) as port:
        found = await probe(TCP, endpoint="127.0.0.1", port=port, config={"health": {"mcp": True}})
    assert found.failure_class is FailureClass.NOT_MCP


# STDIO


def script(text: str) -> dict[str, StdioCommand]:
    return {"it": StdioCommand(argv=(sys.executable, "-c", text))}


async def gone(pid: int) -> bool:
    """Whether a process has ended, which takes one that was killed a moment."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        await asyncio.sleep(0.01)
    return False


async def probe_command(commands: dict[str, StdioCommand], **health: Any) -> ProbeOutcome:
    config = {"command": "it", "health": {"timeout": 30, **health}}
    return await probe(STDIO, commands=commands, config=config)


def sdk_command(*arguments: str) -> dict[str, StdioCommand]:
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return {"it": StdioCommand(argv=(*SERVER, *arguments), env=environment, cwd=Path.cwd())}


async def test_a_server_of_the_sdk_is_ready_over_its_pipes_and_leaves_nobody_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    found = await probe_command(sdk_command("stdio-with-child", str(noted)))
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)
    assert await gone(int(noted.read_text()))


async def test_a_server_of_before_is_ready_over_its_pipes() -> None:
    found = await probe_command(
        script(
            "import json, sys\n"
            "for line in sys.stdin:\n"
            "    asked = json.loads(line)\n"
            "    legacy = asked['method'] == 'initialize'\n"
            "    answer = {'result': {'protocolVersion': '2025-11-25'}} if legacy else {'error': {'code': -32602}}\n"
            "    print(json.dumps({'jsonrpc': '2.0', 'id': asked['id'], **answer}), flush=True)\n"
        )
    )
    assert (found.verdict, found.level) == (Verdict.HEALTHY, Level.READY)


async def test_a_server_that_ends_at_once_has_crashed() -> None:
    assert (await probe_command(script("raise SystemExit(3)"))).failure_class is FailureClass.CRASHED


async def test_a_program_that_prints_something_else_is_no_server_of_mcp() -> None:
    assert (await probe_command(script("print('hello')"))).failure_class is FailureClass.NOT_MCP


async def test_a_program_that_is_not_there_has_crashed() -> None:
    found = await probe_command({"it": StdioCommand(argv=("no-such-program-anywhere",))})
    assert found.failure_class is FailureClass.CRASHED


async def test_a_server_that_heeds_nothing_is_killed_with_its_child(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    text = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(noted)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )
    found = await probe_command(script(text), timeout=3)
    assert found.failure_class is FailureClass.TIMEOUT
    assert [await gone(int(pid)) for pid in noted.read_text().split()] == [True, True]


async def test_a_probe_that_is_cut_off_leaves_nobody_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    text = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(noted)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    task = asyncio.create_task(probe_command(script(text)))
    while not noted.exists() or not noted.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int(noted.read_text()))


async def test_a_command_that_is_not_the_operators_is_never_started() -> None:
    found = await probe(STDIO, commands=script("pass"), config={"command": "/bin/sh"})
    assert found.failure_class is FailureClass.EGRESS_DENIED


async def test_what_is_to_be_started_and_names_no_command_is_denied() -> None:
    assert (await probe(STDIO, auto_start=True)).failure_class is FailureClass.EGRESS_DENIED


async def test_what_nobody_starts_is_not_asked() -> None:
    assert (await probe(STDIO)).verdict is Verdict.UNASKED


async def test_a_server_gets_nothing_of_the_gateways_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "x")
    noted = tmp_path / "environment"
    text = f"import os, pathlib; pathlib.Path({str(noted)!r}).write_text(' '.join(os.environ))"
    await probe_command(script(text))
    assert "SOME_SECRET" not in noted.read_text().split()
    assert "PATH" in noted.read_text().split()


def test_an_answer_is_told_from_what_is_none() -> None:
    assert answer_in("[" * 100_000) is None
    assert answer_in("{}") is None
    assert answer_in('{"jsonrpc": "2.0", "method": "notifications/message"}') is None
