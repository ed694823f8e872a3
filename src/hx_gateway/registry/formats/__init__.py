"""Services as other programs write them down: read into fields of the catalogue, and written from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from hx_gateway.errors import InvalidRequest
from hx_gateway.registry.formats import mcp_servers, server_json
from hx_gateway.registry.formats.documents import Exported, FormatError, Imported
from hx_gateway.registry.formats.server_json import ServersReader
from hx_gateway.registry.official.naming import Naming

Format = Literal["mcp_servers", "server_json"]
# Of a registry that is asked itself, rather than given as a document.
OFFICIAL_REGISTRY = "official_registry"
FORMATS: tuple[str, ...] = get_args(Format)

__all__ = [
    "FORMATS",
    "OFFICIAL_REGISTRY",
    "Exported",
    "Format",
    "FormatError",
    "Imported",
    "ServersReader",
    "read",
    "write",
]


def read(kind: str, document: Any, *, naming: Naming | None = None) -> Imported:
    """Return the services of a document that was decoded from JSON, as fields to make or update services of.

    ``mcp_servers``: the files of Claude and of VS Code. ``server_json``: one ``server.json``, a list of them, or pages
    of the official registry. Raises :class:`FormatError`, which names the place in the document.
    """
    match kind:
        case "mcp_servers":
            return mcp_servers.read(document)
        case "server_json":
            return server_json.read(document, naming or Naming())
    raise _unknown(kind)


def write(kind: str, items: Sequence[Mapping[str, Any]], *, naming: Naming | None = None) -> Exported:
    """Return a document of services, each as it is shown by the catalogue; no secret is among what is written."""
    match kind:
        case "mcp_servers":
            return mcp_servers.write(items)
        case "server_json":
            return server_json.write(items, naming or Naming())
    raise _unknown(kind)


def _unknown(kind: str) -> InvalidRequest:
    return InvalidRequest(f"format must be one of {', '.join(FORMATS)}, not {kind[:60]!r}.", param="format")
