"""The files that clients of MCP keep their servers in: ``mcpServers`` of Claude, ``servers`` of VS Code.

https://modelcontextprotocol.io/docs/develop/connect-local-servers and
https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hx_gateway.access.audit import MASK
from hx_gateway.db.models.registry_items import BuildType, ServiceProtocol
from hx_gateway.registry.formats.documents import (
    MAX_SERVICES,
    Exported,
    FormatError,
    Imported,
    a_text,
    an_object,
    texts,
    texts_by_name,
)
from hx_gateway.registry.formats.launching import launch_of
from hx_gateway.registry.masking import masked_arguments, masked_url, masked_value, placed, placeholders
from hx_gateway.registry.official.mapping import SERVER_JSON, TRANSPORT
from hx_gateway.registry.official.shapes import objects

_ROOTS = ("mcpServers", "servers")
_KNOWN = frozenset({"command", "args", "env", "cwd", "url", "headers", "type", "disabled", "description"})
# As several clients write it.
_HTTP_TYPES = frozenset({"http", "streamable-http", "streamableHttp", "streamable_http"})
_SSE = "sse"
_STDIO = "stdio"


def read(document: Any) -> Imported:
    """Return the services of a file. Values of variables and headers are not among what is kept."""
    root, servers = _servers(an_object(document, ""))
    if len(servers) > MAX_SERVICES:
        raise FormatError(root, f"must have at most {MAX_SERVICES} servers, not {len(servers)}")
    found = Imported()
    for name, server in servers.items():
        path = f"{root}.{name}"
        a_text(name, path)
        fields = _service(an_object(server, path), path, found.warnings)
        found.services.append({"name": name.strip(), **fields})
    return found


def write(items: Sequence[Mapping[str, Any]]) -> Exported:
    """Return a file with those services that a client can run or reach. What is masked refers to a variable."""
    servers: dict[str, Any] = {}
    exported = Exported({"mcpServers": servers})
    for item in items:
        name = str(item["name"])
        entry = _entry(item)
        if entry is None:
            exported.warnings.append(f"{name} is left out: it has neither a command nor an address that clients know.")
            continue
        if item.get("is_enabled") is False:
            entry["disabled"] = True
        if "${" in str(entry):
            exported.warnings.append(f"{name} needs values that are not kept here: set the variables it refers to.")
        servers[name] = entry
    return exported


def _servers(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    for root in _ROOTS:
        if root in document:
            return root, an_object(document[root], root)
    nested = document.get("mcp")
    if isinstance(nested, dict) and "servers" in nested:
        return "mcp.servers", an_object(nested["servers"], "mcp.servers")
    raise FormatError("mcpServers", "is missing: that is where the servers stand")


def _service(server: Mapping[str, Any], path: str, warnings: list[str]) -> dict[str, Any]:
    kind = server.get("type")
    if kind is not None and kind not in (*_HTTP_TYPES, _SSE, _STDIO):
        raise FormatError(f"{path}.type", "must be one of stdio, http, sse")
    if ("command" in server) == ("url" in server):
        raise FormatError(path, "must have either a command or a url")
    if "command" in server and kind not in (None, _STDIO):
        raise FormatError(f"{path}.type", f"must be stdio for a server with a command, not {kind}")
    if "url" in server and kind == _STDIO:
        raise FormatError(f"{path}.command", "is missing: a stdio server is run by one")
    unknown = sorted(set(server) - _KNOWN)
    if unknown:
        warnings.append(f"{path}: not taken over: {', '.join(unknown)[:200]}.")
    disabled = server.get("disabled", False)
    if not isinstance(disabled, bool):
        raise FormatError(f"{path}.disabled", "must be true or false")
    described = {"description": a_text(server["description"], f"{path}.description")} if "description" in server else {}
    fields = _run(server, path, warnings) if "command" in server else _reached(server, path, warnings)
    return {**described, **fields, "is_enabled": not disabled}


def _run(server: Mapping[str, Any], path: str, warnings: list[str]) -> dict[str, Any]:
    arguments = texts(server.get("args", []), f"{path}.args")
    kept = masked_arguments(arguments)
    for index, (before, after) in enumerate(zip(arguments, kept, strict=True)):
        if before != after:
            warnings.append(f"{path}.args[{index}]: the secret in it is not kept.")
    config: dict[str, Any] = {"command": a_text(server["command"], f"{path}.command")}
    if kept:
        config["args"] = kept
    environment = _masked(server, "env", path, warnings)
    if environment:
        config["env"] = environment
    if "cwd" in server:
        config["cwd"] = a_text(server["cwd"], f"{path}.cwd")
    return {"build_type": BuildType.CUSTOM, "protocol": ServiceProtocol.STDIO, "config": config}


def _reached(server: Mapping[str, Any], path: str, warnings: list[str]) -> dict[str, Any]:
    url = a_text(server["url"], f"{path}.url").strip()
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https", "ws", "wss"):
        raise FormatError(f"{path}.url", "must begin with http://, https://, ws:// or wss://")
    kept = masked_url(url)
    if kept != url:
        warnings.append(f"{path}.url: the secret in it is not kept.")
    config: dict[str, Any] = {TRANSPORT: _SSE} if server.get("type") == _SSE else {}
    headers = _masked(server, "headers", path, warnings)
    if headers:
        config["headers"] = headers
    protocol = ServiceProtocol.WEBSOCKET if scheme in ("ws", "wss") else ServiceProtocol.HTTP
    return {"build_type": BuildType.EXTERNAL, "protocol": protocol, "endpoint": kept, "config": config}


def _masked(server: Mapping[str, Any], field: str, path: str, warnings: list[str]) -> dict[str, str]:
    """Return names with what is kept of their values: nobody can tell which of those are secrets."""
    kept = {}
    for name, value in texts_by_name(server.get(field, {}), f"{path}.{field}").items():
        kept[name] = masked_value(value, is_header=name if field == "headers" else None)
        if kept[name] != value:
            warnings.append(f"{path}.{field}.{name}: the value is not kept, only the name.")
    return kept


def _entry(item: Mapping[str, Any]) -> dict[str, Any] | None:
    config = item.get("config") or {}
    protocol = item.get("protocol")
    if protocol == ServiceProtocol.HTTP and item.get("endpoint"):
        return _address(item, config)
    if protocol != ServiceProtocol.STDIO:
        return None
    if isinstance(config.get("command"), str):
        arguments = [argument for argument in _list(config.get("args")) if isinstance(argument, str)]
        environment = {name: masked_value(value) for name, value in _texts(config.get("env")).items()}
        kept = _placed_arguments(masked_arguments(arguments))
        return _command(config["command"], kept, placeholders(environment), config.get("cwd"))
    stored = config.get(SERVER_JSON)
    packages = objects(stored, "packages") if isinstance(stored, dict) else []
    launch = next(filter(None, (launch_of(package) for _, package in packages)), None)
    return None if launch is None else _command(launch.command, launch.arguments, launch.environment, None)


def _address(item: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    url = placed(masked_url(str(item["endpoint"])), f"{item['name']} secret")
    entry: dict[str, Any] = {"type": _SSE if config.get(TRANSPORT) == _SSE else "http", "url": url}
    headers = {name: masked_value(value, is_header=name) for name, value in _texts(config.get("headers")).items()}
    return {**entry, "headers": placeholders(headers)} if headers else entry


def _command(command: str, arguments: list[str], environment: Mapping[str, str], cwd: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"command": command, "args": arguments}
    if environment:
        entry["env"] = dict(environment)
    if isinstance(cwd, str):
        entry["cwd"] = cwd
    return entry


def _placed_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments with a reference where one is masked: to what is called like its flag."""
    placed_ones, previous = [], ""
    for argument in arguments:
        name = argument.partition("=")[0] if "=" in argument else previous
        placed_ones.append(placed(argument, name.lstrip("-") or "argument") if MASK in argument else argument)
        previous = argument
    return placed_ones


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> dict[str, str]:
    """Return the members of an object that are texts."""
    members = value.items() if isinstance(value, dict) else ()
    return {name: member for name, member in members if isinstance(member, str)}
