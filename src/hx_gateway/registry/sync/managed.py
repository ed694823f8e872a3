"""What of a service is another registry's to say, and whether somebody here has said otherwise since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.official.mapping import DEPRECATED, SERVER_JSON, STATUS_MESSAGE, TRANSPORT

DIGEST_BYTES = 12
_FIELDS: Final = ("display_name", "description", "version", "build_type", "protocol", "endpoint")
# Of the two objects these members; the others are the tenant's own.
_MEMBERS: Final = {"config": (SERVER_JSON, TRANSPORT), "service_metadata": (DEPRECATED, STATUS_MESSAGE)}


def managed_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is managed of the fields of a service, members of objects by their paths."""
    values = {name: fields.get(name) for name in _FIELDS}
    for parent, members in _MEMBERS.items():
        held = fields.get(parent) or {}
        values |= {f"{parent}.{member}": held.get(member) for member in members}
    return values


def values_of(item: RegistryItem) -> dict[str, Any]:
    """Return what is managed of a service as it is stored."""
    return managed_values({name: getattr(item, name) for name in (*_FIELDS, *_MEMBERS)})


def digests_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each value: enough to tell whether it is still the same."""
    return {name: _digest(value) for name, value in values.items()}


def changes_for(
    item: RegistryItem, known: Mapping[str, str], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is to be set of a service, and the digests to keep.

    ``known`` are the digests of what was written last. What is another now than was written was changed here: it stays,
    and so does its digest, by which it is given back once it is set to that again.
    """
    now, wanted = values_of(item), managed_values(fields)
    digests, new = digests_of(now), digests_of(wanted)
    ours = {name for name in now if digests[name] == known.get(name) or digests[name] == new[name]}
    changed = {name for name in ours if digests[name] != new[name]}
    kept = {name: new[name] if name in ours else digest for name, digest in {**digests, **known}.items() if name in now}
    return _nested(item, {name: wanted[name] for name in changed}), kept


def _nested(item: RegistryItem, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as fields to set: objects with their other members as they are."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        parent, _, member = name.partition(".")
        if not member:
            changes[name] = value
            continue
        held = changes.setdefault(parent, dict(getattr(item, parent)))
        held.pop(member, None)
        if value is not None:
            held[member] = value
    return changes


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=DIGEST_BYTES).hexdigest()
