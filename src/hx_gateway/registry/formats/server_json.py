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
from hx_gateway.registry.official.schema import MAX_NAME_CHARS
from hx_gateway.registry.official.server_json import OFFICIAL_META, Rules, errors_of, validate
from hx_gateway.registry.official.shapes import objects, text
from hx_gateway.registry.official.versions import rank

SOURCE = "server.json"
OFFICIAL_SOURCE = "official"
# Other registries keep what they like in _meta, and know packages that we do not.
_RULES = Rules(known_registries=False, publisher_meta_only=False)
MAX_WARNINGS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What of a service its document says nothing of.
_OWN_ENUMS = {"build_type": BuildType, "priority": ServicePriority}


def read(document: Any, naming: Naming) -> Imported:
    """Return the services of the documents: of each name the latest version."""
    latest = _Latest(naming)
    for path, member in _members(document):
        server, meta = checked(path, member)
        if latest.knows(server):
            latest.found.warnings.append(
                f"{path}: {server['name']} is there several times: its latest version is taken."
            )
        latest.take(path, server, meta)
    if len(latest) > MAX_SERVICES:
        raise FormatError("", f"must have at most {MAX_SERVICES} servers, not {len(latest)}")
    return latest.imported()


class ServersReader:
    """Gathers the services of another registry's ``servers``, page by page: what is wrong with one leaves out that one.

    Of each name the latest version is held, and at most ``MAX_WARNINGS`` warnings; its length is how many services.
    """

    def __init__(self, naming: Naming) -> None:
        self._latest = _Latest(naming)
        self._taken = 0
        self._unsaid = 0

    def __len__(self) -> int:
        return len(self._latest)

    def take(self, members: Sequence[Any]) -> None:
        """Take the members of a page, whatever they are."""
        warnings = self._latest.found.warnings
        for number, member in enumerate(members, self._taken):
            try:
                self._latest.take(f"servers[{number}]", *checked(f"servers[{number}]", member))
            except FormatError as error:
                warnings.append(f"{named(member)}: left out. {error.message}")
            self._unsaid += max(0, len(warnings) - MAX_WARNINGS)
            del warnings[MAX_WARNINGS:]
        self._taken += len(members)

    def imported(self) -> Imported:
        """Return the services, in the order in which their names came first. Nothing is taken after that."""
        if self._unsaid:
            self._latest.found.warnings.append(f"{self._unsaid} more.")
        return self._latest.imported()


def checked(path: str, member: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return a document that has no errors, and what a registry said of it. Raises :class:`FormatError`."""
    path, server, meta = _one(path, an_object(member, path))
    errors = errors_of(validate(server, _RULES))
    if errors:
        place = errors[0].path
        raise FormatError(f"{path}.{place}" if path and place else path or place, errors[0].message)
    return server, meta


def said_of(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the official registry, or one like it, says of a version."""
    official = meta.get(OFFICIAL_META)
    return official if isinstance(official, dict) else {}


def named(member: Any) -> str:
    """Return what a server is called that may be none, for a message."""
    server = member.get("server", member) if isinstance(member, dict) else None
    name = server.get("name") if isinstance(server, dict) else None
    return repr(name[:MAX_NAME_CHARS]) if isinstance(name, str) else "one without a name"


class _Latest:
    """The latest version of each name among those that were taken."""

    def __init__(self, naming: Naming) -> None:
        self.found = Imported()
        self._naming = naming
        self._by_name: dict[str, tuple[Any, dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def knows(self, server: Mapping[str, Any]) -> bool:
        """Return whether a version of the same name was taken."""
        return server["name"] in self._by_name

    def take(self, path: str, server: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Take a version, unless it was deleted."""
        official = said_of(meta)
        if official.get("status") == "deleted":
            self.found.warnings.append(f"{path or server['name']}: left out, for it was deleted.")
            return
        order = (official.get("isLatest") is True, rank(server["version"], _EPOCH))
        known = self._by_name.get(server["name"])
        if known is None or order > known[0]:
            fields = service_of(server, meta, self._naming, self.found.warnings)
            self._by_name[server["name"]] = order, fields

    def imported(self) -> Imported:
        """Return the services, in the order in which their names came first."""
        self.found.services.extend(fields for _, fields in self._by_name.values())
        return self.found


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


def _members(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield each document's path and itself, perhaps with what a registry said of it."""
    if isinstance(document, dict) and "servers" in document:
        members, root = document["servers"], "servers"
    elif isinstance(document, list):
        members, root = document, ""
    else:
        yield "", document
        return
    if not isinstance(members, list):
        raise FormatError(root, "must be a list of servers")
    for index, member in enumerate(members):
        yield f"{root}[{index}]", member


def _one(path: str, member: Mapping[str, Any]) -> tuple[str, Any, Mapping[str, Any]]:
    if "server" not in member:
        return path, member, {}
    meta = member.get("_meta")
    return f"{path}.server" if path else "server", member["server"], meta if isinstance(meta, dict) else {}


def service_of(
    server: Mapping[str, Any], meta: Mapping[str, Any], naming: Naming, warnings: list[str]
) -> dict[str, Any]:
    """Return the fields of a service that a checked document, and what a registry said of it, say something of."""
    official = said_of(meta)
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
