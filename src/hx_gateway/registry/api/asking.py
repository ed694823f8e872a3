"""Who asks the registry, in which tenant, and how it is answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import Depends, Header, Request, Response

from hx_gateway.access.principal import BoundScope
from hx_gateway.access.resources import Actor
from hx_gateway.db.models.validation import identifier
from hx_gateway.errors import Forbidden, HXError, InvalidRequest
from hx_gateway.pipeline.context import Context
from hx_gateway.pipeline.stages.security import check_holds
from hx_gateway.registry.bulk import Bulk
from hx_gateway.registry.catalog import Catalog
from hx_gateway.registry.checks import Checks
from hx_gateway.registry.dependencies import Dependencies
from hx_gateway.registry.feed.follow import ChangeFeed
from hx_gateway.registry.history import History
from hx_gateway.registry.hot_reads import HotReads, Load
from hx_gateway.registry.import_places import ImportPlaces
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.source import RegistrySource
from hx_gateway.registry.standing import Standing
from hx_gateway.registry.sync.job import RegistrySync
from hx_gateway.registry.tools import Tools
from hx_gateway.registry.transactions import tenant_of

JSON = "application/json"
_MARK_BYTES = 6
_ENDS = frozenset({"dependencies", "dependents"})
_TAG = re.compile(rf'(?:W/)?"([0-9]{{1,9}})(?:-[0-9a-f]{{{2 * _MARK_BYTES}}})?"')


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryParts:
    """What the routes ask. ``require_if_match``: whether a change must name the version that it is of.

    ``naming``: what services are called in documents of servers. ``sources``: other registries, to be
    imported while there are places (``imports``); ``sync`` follows some.
    """

    catalog: Catalog
    bulk: Bulk
    standing: Standing
    checks: Checks
    feed: ChangeFeed
    hot: HotReads
    history: History
    dependencies: Dependencies
    tools: Tools
    sources: RegistrySource
    sync: RegistrySync
    naming: Naming = field(default_factory=Naming)
    imports: ImportPlaces = field(default_factory=ImportPlaces)
    require_if_match: bool = False


def begins_with(name: str, prefixes: Iterable[str]) -> bool:
    """Return whether a name begins with one of ``prefixes``, whatever their case: it tells no services apart."""
    return name.lower().startswith(tuple(prefix.lower() for prefix in prefixes))


class VersionRequired(HXError):
    """A change that does not say which version it is of, where it must."""

    status = 428
    code = "version_required"
    type = "invalid_request_error"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request's view of the registry."""

    registry: RegistryParts
    actor: Actor
    no_cache: bool

    async def kept(self, tenant_id: str | None, key: tuple[object, ...], load: Load) -> bytes:
        """Return an answer that others may have asked for just now. Raises what ``load`` does."""
        tenant = tenant_of(self.actor, tenant_id)
        if self.no_cache:
            return await load()
        return await self.registry.hot.read(tenant, repr(key), load)

    async def newest(self, tenant_id: str | None) -> int:
        """Return the number of the tenant's newest change, or of one before it: what comes after is not missed."""
        return await self.registry.feed.head(tenant_of(self.actor, tenant_id))

    def noted(self, tenant_id: str | None) -> None:
        """Let nobody see here how services stood before."""
        self.registry.hot.forget(tenant_of(self.actor, tenant_id))

    @property
    def only_registers(self) -> bool:
        """Whether the key may register services by their names, and change no others."""
        return "" not in self.actor.principal.prefixes(BoundScope.REGISTER)

    def check_registers(self, name: str) -> None:
        """Raise ``Forbidden`` for a service that is not the key's to register: which it names, by its own prefix."""
        if not self.only_registers:
            return
        prefixes = self.actor.principal.prefixes(BoundScope.REGISTER)
        # What reads like an id would be taken for one.
        if isinstance(identifier(name), UUID) or not begins_with(name, prefixes):
            shown = ", ".join(prefixes) or "nothing"
            raise Forbidden(
                f"The API key may register what begins with {shown}: name such a service, not {name[:200]!r}.",
                param="ref",
            )

    def version(self, if_match: str | None) -> int | None:
        """Return the version that a change is of, ``None`` for whichever.

        Raises ``InvalidRequest`` for what is no ETag of ours, :class:`VersionRequired` where there must be one.
        """
        if if_match is None and self.registry.require_if_match:
            raise VersionRequired("Send if-match with the etag of what you read.", param="if-match")
        if if_match is None or if_match.strip() == "*":
            return None
        tag = _TAG.fullmatch(if_match.strip())
        if tag is None:
            raise InvalidRequest('if-match must be an etag that an answer came with, as W/"3".', param="if-match")
        return int(tag[1])


def actor_of(ctx: Context) -> Actor:
    """Return who makes a request that the pipeline let in."""
    assert ctx.principal is not None
    traceparent = ctx.header(b"traceparent")
    return Actor(
        principal=ctx.principal,
        request_id=ctx.request_id,
        client=ctx.client,
        traceparent=traceparent.decode("latin-1") if traceparent is not None else None,
    )


def ask_of(request: Request) -> Ask:
    """Return the view of the caller that the pipeline found.

    Raises ``Forbidden`` for a right to some names only, which the route may have let in for the sake of others.
    """
    ctx = request.state.hx
    check_holds(ctx.principal, ctx.route.policy.scopes)
    return naming_ask_of(request)


def naming_ask_of(request: Request) -> Ask:
    """Return the same for a route that asks :meth:`Ask.check_registers` for each service it is about."""
    actor = actor_of(request.state.hx)
    return Ask(request.app.state.registry, actor, "no-cache" in request.headers.get("cache-control", ""))


Asks = Annotated[Ask, Depends(ask_of)]
NamingAsks = Annotated[Ask, Depends(naming_ask_of)]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=64, description="The `etag` of what is changed: 412 if it was changed since.", examples=['W/"3"']
    ),
]


def encoded(value: object) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(value)


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with ``value`` as JSON, which is that already where it is bytes."""
    body = value if isinstance(value, bytes) else encoded(value)
    return Response(body, status, headers=dict(headers or {}), media_type=JSON)


def shown(item: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a service, and its ETag."""
    return answer(item, status=status, headers={"etag": etag(item), **(headers or {})})


def etag(item: Mapping[str, Any]) -> str:
    """Return the ETag of a service as it is shown. It is weak: counts and sights change without it.

    It begins with the version, which is what a change is compared with. What is shown of others has versions of its
    own, and a mark behind that; its tools have the service's.
    """
    expanded = item.get("expanded", {})
    others = [(end, other["id"], other["row_version"]) for end in _ENDS & expanded.keys() for other in expanded[end]]
    if not item["dependents"] and not expanded.keys() - {"tools"}:
        return f'W/"{item["row_version"]}"'
    seen = [item["dependents"], *sorted(others), expanded.get("health")]
    mark = blake2b(encoded(seen), digest_size=_MARK_BYTES).hexdigest()
    return f'W/"{item["row_version"]}-{mark}"'


def is_known(request: Request, tag: str) -> bool:
    """Return whether the client has this version already, by weak comparison (RFC 9110, 8.8.3.2)."""
    known = request.headers.get("if-none-match")
    if known is None:
        return False
    return known.strip() == "*" or tag.removeprefix("W/") in (
        part.strip().removeprefix("W/") for part in known.split(",")
    )
