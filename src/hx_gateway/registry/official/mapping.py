"""Services as ``server.json`` documents, and such documents as the fields of services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

from hx_gateway.db.models.registry_items import PLACE_CHARS, VERSION_CHARS, BuildType, ServiceProtocol
from hx_gateway.registry.masking import templated_url
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.package_rules import OCI
from hx_gateway.registry.official.schema import (
    MAX_DESCRIPTION_CHARS,
    MAX_TITLE_CHARS,
    SCHEMA_URL,
    SSE,
    STREAMABLE_HTTP,
)
from hx_gateway.registry.official.server_json import OFFICIAL_META, Rules, errors_of, validate
from hx_gateway.registry.official.shapes import objects, text
from hx_gateway.registry.official.versions import UNKNOWN_VERSION, version_problem

Status = Literal["active", "deprecated", "deleted"]
STATUSES: Final[tuple[Status, ...]] = ("active", "deprecated", "deleted")
# In a service's config: what of the document has no field of its own; and which of the two HTTP transports it speaks.
SERVER_JSON = "server_json"
TRANSPORT = "transport"
# Of service_metadata: what stands for the status of a service that was never published.
DEPRECATED, STATUS_MESSAGE = "deprecated", "status_message"
# What publishing makes of a service, and may make something else of later; the others are somebody's decision.
PUBLISHED_AS = frozenset({BuildType.CUSTOM, BuildType.DOCKER, BuildType.EXTERNAL})
_OWN_FIELDS = frozenset({"$schema", "name", "title", "description", "version"})
_CREDENTIAL_HEADER = {
    "name": "Authorization",
    "description": "A key of the gateway, as 'Bearer <key>'.",
    "isRequired": True,
    "isSecret": True,
}
_SHOWN_OF_SERVICE = (
    *("id", "status", "priority", "build_type", "protocol", "tags", "is_required", "is_enabled"),
    *("last_seen", "response_time_ms", "dependencies"),
)
_LENIENT = Rules(known_registries=False, publisher_meta_only=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """What the registry says of a version."""

    status: Status
    message: str | None
    changed_at: datetime
    published_at: datetime
    updated_at: datetime
    is_latest: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is shown."""
        shown: dict[str, Any] = {"status": self.status}
        if self.message is not None:
            shown["statusMessage"] = self.message
        return {
            **shown,
            "statusChangedAt": moment(self.changed_at),
            "publishedAt": moment(self.published_at),
            "updatedAt": moment(self.updated_at),
            "isLatest": self.is_latest,
        }


def moment(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


class ServerMapping:
    """Both directions. ``gateway_url``: where this gateway serves MCP for its clients, who are sent there then."""

    def __init__(self, naming: Naming, *, gateway_url: str | None = None) -> None:
        self.naming = naming
        self._gateway_url = gateway_url.rstrip("/") if gateway_url else None

    def document_of(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document of a service that has published none, from its fields as they are shown."""
        name, described = str(item["name"]), item.get("description") or ""
        title = _cut(item.get("display_name") or "", MAX_TITLE_CHARS)
        if not title and self.naming.server_name(name, item["id"]).rpartition("/")[2] == str(item["id"]):
            title = _cut(name, MAX_TITLE_CHARS)
        document: dict[str, Any] = {
            "$schema": SCHEMA_URL,
            "name": self.naming.server_name(name, item["id"]),
            **({"title": title} if title else {}),
            "description": _cut(described, MAX_DESCRIPTION_CHARS) or title or _cut(name, MAX_DESCRIPTION_CHARS),
            "version": version_of(item.get("version")),
        }
        rest = self._rest(item)
        whole = {**document, **rest}
        if not errors_of(validate(whole, _LENIENT)):
            return whole
        # Whatever a service holds: what a document does not take is left out of it.
        for field, value in rest.items():
            if not errors_of(validate({**document, field: value}, _LENIENT)):
                document[field] = value
        return document

    def response(
        self, document: Mapping[str, Any], lifecycle: Lifecycle, item: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a version as it is answered: with what we know of its service where ``item`` is given."""
        meta: dict[str, Any] = {OFFICIAL_META: lifecycle.to_dict()}
        if item is not None:
            meta[f"{self.naming.namespace}/service"] = {name: item[name] for name in _SHOWN_OF_SERVICE}
        return {"server": dict(document), "_meta": meta}

    def _rest(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the document has beside its head."""
        config = item.get("config") or {}
        stored = config.get(SERVER_JSON)
        rest = (
            {name: part for name, part in stored.items() if name not in _OWN_FIELDS} if isinstance(stored, dict) else {}
        )
        package = config.get("package")
        if "packages" not in rest and isinstance(package, dict):
            rest["packages"] = [{"transport": {"type": "stdio"}, **package}]
        remote = self._remote(item, config)
        if remote is not None and (self._gateway_url is not None or "remotes" not in rest):
            rest["remotes"] = [remote]
        return rest

    def _remote(self, item: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any] | None:
        if self._gateway_url is not None:
            url = f"{self._gateway_url}/mcp/s/{quote(str(item['name']), safe='')}"
            return {"type": STREAMABLE_HTTP, "url": url, "headers": [dict(_CREDENTIAL_HEADER)]}
        if item["protocol"] != ServiceProtocol.HTTP or not item.get("endpoint"):
            return None
        url, secrets = templated_url(item["endpoint"])
        remote = {"type": SSE if config.get(TRANSPORT) == SSE else STREAMABLE_HTTP, "url": url}
        variables = {name: {"isRequired": True, "isSecret": True} for name in secrets}
        return {**remote, "variables": variables} if variables else remote


def version_of(version: str | None) -> str:
    """Return a service's version as a server's."""
    return version if version and version_problem(version) is None else UNKNOWN_VERSION


def fields_of(document: Mapping[str, Any], naming: Naming) -> dict[str, Any]:
    """Return the fields of a service that a document without errors says something of; ``config`` is what it adds."""
    remote, packages = _best_remote(document), [package for _, package in objects(document, "packages")]
    transport, endpoint = _spoken(remote, packages)
    version = text(document, "version")
    config: dict[str, Any] = {
        SERVER_JSON: {name: value for name, value in document.items() if name not in _OWN_FIELDS},
        **({TRANSPORT: SSE} if transport == SSE else {}),
    }
    name = naming.item_of(text(document, "name"))
    return {
        **({"name": name} if isinstance(name, str) else {}),
        "display_name": document.get("title"),
        "description": text(document, "description"),
        "version": version if len(version) <= VERSION_CHARS else None,
        "build_type": _build_type(packages, remote),
        "protocol": ServiceProtocol.STDIO if transport == "stdio" else ServiceProtocol.HTTP,
        "endpoint": endpoint,
        "config": config,
    }


def with_config(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service's config with what a document adds, in the place of what another one had added."""
    return {**{name: value for name, value in config.items() if name not in (SERVER_JSON, TRANSPORT)}, **added}


def _build_type(packages: list[dict[str, Any]], remote: Mapping[str, Any] | None) -> BuildType:
    if any(text(package, "registryType") == OCI for package in packages):
        return BuildType.DOCKER
    return BuildType.EXTERNAL if remote is not None and not packages else BuildType.CUSTOM


def _best_remote(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the remote that a client takes: streamable HTTP before SSE, an address before a template."""
    remotes = [remote for _, remote in objects(document, "remotes")]
    return min(
        remotes, key=lambda remote: (remote.get("type") != STREAMABLE_HTTP, "{" in text(remote, "url")), default=None
    )


def _spoken(remote: Mapping[str, Any] | None, packages: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Return the transport of a service, and the address that it is spoken to at if that is a whole one."""
    first = packages[0].get("transport") if packages else None
    local = first if isinstance(first, dict) else {}
    spoken = remote if remote is not None else local
    url = text(spoken, "url")
    whole = url if "{" not in url and 0 < len(url) <= PLACE_CHARS and "@" not in urlsplit(url).netloc else None
    return text(spoken, "type") or "stdio", whole


def _cut(value: str, most: int) -> str:
    """Return a text of at most so many characters, without spaces around it."""
    stripped = value.strip()
    return stripped if len(stripped) <= most else f"{stripped[: most - 1].rstrip()}…"
