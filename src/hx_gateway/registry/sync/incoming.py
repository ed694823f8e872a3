"""What a page of another registry says has become of its servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hx_gateway.registry.formats.documents import FormatError
from hx_gateway.registry.formats.server_json import checked, named, said_of, service_of
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.versions import rank

# Of versions that are compared by themselves alone.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Incoming:
    """Servers by name. ``present`` has the fields of services; of those in ``doubtful`` it must be asked what is left.

    Those of ``perhaps_older`` are present in a version that nobody says is the latest: another page may have that.
    ``updated_at`` is the latest time at which one of them changed, where that is said. ``unread`` tells of those that
    are no servers.
    """

    present: dict[str, dict[str, Any]] = field(default_factory=dict)
    doubtful: list[str] = field(default_factory=list)
    perhaps_older: set[str] = field(default_factory=set)
    updated_at: datetime | None = None
    unread: list[str] = field(default_factory=list)


def incoming_of(members: Sequence[Any], naming: Naming) -> Incoming:
    """Return what the members of a list of servers say.

    The latest version of a server stands for it, where it is said which that is; else the latest of those that are
    there. One of which a deletion is told may have other versions, or none.
    """
    found, best, deleted = Incoming(), dict[str, tuple[Any, dict[str, Any]]](), dict[str, None]()
    for member in members:
        try:
            server, meta = checked("server", member)
        except FormatError as error:
            found.unread.append(f"{named(member)}: {error.message}")
            continue
        official, name = said_of(meta), server["name"]
        found.updated_at = _later(found.updated_at, official)
        if official.get("status") == "deleted":
            deleted[name] = None
        elif official.get("isLatest") is not False:
            order = (official.get("isLatest") is True, rank(server["version"], EPOCH))
            if name not in best or order > best[name][0]:
                best[name] = order, service_of(server, meta, naming, [])
    found.present = {name: fields for name, (_, fields) in best.items()}
    found.perhaps_older = {name for name, ((is_latest, _), _) in best.items() if not is_latest}
    found.doubtful = [name for name in deleted if name not in best or name in found.perhaps_older]
    return found


def _later(known: datetime | None, official: Mapping[str, Any]) -> datetime | None:
    try:
        said = datetime.fromisoformat(str(official.get("updatedAt")))
    except ValueError:
        return known
    if said.tzinfo is None:
        return known
    return said if known is None else max(known, said)
