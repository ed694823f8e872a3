"""``server.json``: one, a list of them, or a page of the official registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hx_gateway.db.models.registry_items import BuildType, ServicePriority
from hx_gateway.registry.formats.documents import MAX_SERVICES, Exported, FormatError, Imported, an_object
from hx_gateway.registry.official.mapping import (
    DEPRECATED,
    SERVER_JSON,
    STATUS_MESSAGE,
    ServerMapping,
    fields_of,
)
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.server_json import OFFICIAL_META, Rules, errors_of, validate
from hx_gateway.registry.official.shapes import objects, text
from hx_gateway.registry.official.versions import rank

SOURCE = "server.json"
OFFICIAL_SOURCE = "official"
# Other registries keep what they like in _meta, and know packages that we do not.
_RULES = Rules(known_registries=False, publisher_meta_only=False)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What of a service its document says nothing of.
_OWN_ENUMS = {"build_type": BuildType, "priority": ServicePriority}


def read(document: Any, naming: Naming) -> Imported:
    """Return the services of the documents: of each name the latest version."""
    found = Imported()
    latest: dict[str, tuple[Any, dict[str, Any]]] = {}
    for path, server, meta in _servers(document):
        errors = errors_of(validate(server, _RULES))
        if errors:
            place = errors[0].path
            raise FormatError(f"{path}.{place}" if path and place else path or place, errors[0].message)
        official = meta.get(OFFICIAL_META)
        official = official if isinstance(official, dict) else {}
        if official.get("status") == "deleted":
            found.warnings.append(f"{path or server['name']}: left out, for it was deleted.")
            continue
        order = (official.get("isLatest") is True, rank(server["version"], _EPOCH))
        known = latest.get(server["name"])
        if known is not None:
            found.warnings.append(f"{path}: {server['name']} is there several times: its latest version is taken.")
        if known is None or order > known[0]:
            latest[server["name"]] = order, _service(server, meta, official, naming, found.warnings)
    if len(latest) > MAX_SERVICES:
        raise FormatError("", f"must have at most {MAX_SERVICES} servers, not {len(latest)}")
    found.services.extend(fields for _, fields in latest.values())
    return found


def write(items: Sequence[Mapping[str, Any]], naming: Naming) -> Exported:
    """Return a page as the official registry gives it, with what only we know in a part of ``_meta``."""
    mapping = ServerMapping(naming)
    servers = []
    for item in items:
        deprecated = (item.get("service_metadata") or {}).get(DEPRECATED) is True
        official = {
            "status": "deleted" if item.get("deleted_at") else "deprecated" if deprecated else "active",
            "publishedAt": _moment(item.get("created_at")),
            "updatedAt": _moment(item.get("updated_at")),
            "isLatest": True,
        }
        own = {name: item[name] for name in ("build_type", "priority", "tags", "is_required") if name in item}
        meta = {OFFICIAL_META: official, f"{naming.namespace}/service": own}
        servers.append({"server": mapping.document_of(item), "_meta": meta})
    return Exported({"servers": servers, "metadata": {"count": len(servers)}})


def _servers(document: Any) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield each document's path, itself, and what a registry said of it."""
    if isinstance(document, dict) and "servers" in document:
        members, root = document["servers"], "servers"
    elif isinstance(document, list):
        members, root = document, ""
    else:
        yield _one("", an_object(document, ""))
        return
    if not isinstance(members, list):
        raise FormatError(root, "must be a list of servers")
    for index, member in enumerate(members):
        path = f"{root}[{index}]"
        yield _one(path, an_object(member, path))


def _one(path: str, member: Mapping[str, Any]) -> tuple[str, Any, Mapping[str, Any]]:
    if "server" not in member:
        return path, member, {}
    meta = member.get("_meta")
    return f"{path}.server" if path else "server", member["server"], meta if isinstance(meta, dict) else {}


def _service(
    server: Mapping[str, Any],
    meta: Mapping[str, Any],
    official: Mapping[str, Any],
    naming: Naming,
    warnings: list[str],
) -> dict[str, Any]:
    fields = fields_of(server, naming)
    stored = _without_secrets(fields["config"][SERVER_JSON], str(server["name"]), warnings)
    # One that was named by its id here, since its own name is none that servers have: its title is that.
    name = fields.pop("name", None) or fields["display_name"] or server["name"]
    fields = {"name": name, **fields, "config": {**fields["config"], SERVER_JSON: stored}}
    fields["source"] = OFFICIAL_SOURCE if official else SOURCE
    if official:
        fields["build_type"] = BuildType.OFFICIAL
    fields |= _own(meta.get(f"{naming.namespace}/service"))
    if official.get("status") == "deprecated":
        message = text(official, "statusMessage")
        fields["service_metadata"] = {DEPRECATED: True, **({STATUS_MESSAGE: message} if message else {})}
    return fields


def _own(said: Any) -> dict[str, Any]:
    """Return what another gateway of ours said of a service."""
    if not isinstance(said, dict):
        return {}
    own: dict[str, Any] = {
        name: kind(said[name])
        for name, kind in _OWN_ENUMS.items()
        if said.get(name) in [member.value for member in kind]
    }
    tags = said.get("tags")
    if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
        own["tags"] = tags
    return {**own, "is_required": said["is_required"]} if isinstance(said.get("is_required"), bool) else own


def _without_secrets(stored: Mapping[str, Any], name: str, warnings: list[str]) -> dict[str, Any]:
    """Return what is kept of a document, without the values of inputs that it calls secret."""
    kept = dict(stored)
    for field in ("packages", "remotes"):
        if field in stored:
            kept[field] = [
                _bare(member, f"{name}: {field}[{index}]", warnings) for index, member in objects(stored, field)
            ]
    return kept


def _bare(value: Any, path: str, warnings: list[str]) -> Any:
    if isinstance(value, list):
        return [_bare(member, f"{path}[{index}]", warnings) for index, member in enumerate(value)]
    if not isinstance(value, dict):
        return value
    secret = value.get("isSecret") is True
    dropped = [field for field in ("value", "default") if secret and value.get(field)]
    if dropped:
        warnings.append(f"{path}: its {' and '.join(dropped)} is a secret that is not kept.")
    return {name: _bare(member, f"{path}.{name}", warnings) for name, member in value.items() if name not in dropped}


def _moment(time: Any) -> str:
    """Return a time as it is shown, in the form that clients of the registry know."""
    return str(time).replace("+00:00", "Z") if time else _EPOCH.isoformat().replace("+00:00", "Z")
