"""The paths below ``/servers/``: which server, which version, and what of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hx_gateway.errors import NotFound


class Target(StrEnum):
    """What a path below ``/servers/`` names."""

    VERSIONS = "versions"
    VERSION = "version"
    VERSION_STATUS = "version_status"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class ServerPath:
    """A path that was read. ``version`` is ``""`` where it is about all of them."""

    target: Target
    name: str
    version: str = ""


def read_path(rest: str) -> ServerPath:
    """Return what the decoded rest of a path names.

    A server's name is two segments of it, whether its slash came encoded or not. Raises ``NotFound``.
    """
    match rest.split("/"):
        case [namespace, local, "versions"]:
            return ServerPath(Target.VERSIONS, f"{namespace}/{local}")
        case [namespace, local, "status"]:
            return ServerPath(Target.STATUS, f"{namespace}/{local}")
        case [namespace, local, "versions", version]:
            return ServerPath(Target.VERSION, f"{namespace}/{local}", version)
        case [namespace, local, "versions", version, "status"]:
            return ServerPath(Target.VERSION_STATUS, f"{namespace}/{local}", version)
    raise NotFound(
        "There is nothing at this path: a server is asked for as /servers/{serverName}/versions/latest.",
        code="unknown_path",
    )
