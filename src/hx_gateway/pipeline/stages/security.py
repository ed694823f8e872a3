"""Who is calling, and may they use this route? Nothing behind this stage runs for anybody else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from hx_gateway.access.principal import Authenticator, Principal, Role, Scope
from hx_gateway.access.throttle import FailureThrottle
from hx_gateway.errors import Forbidden, InvalidApiKey, InvalidRequest
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import Who

MAX_KEY_LENGTH = 512
_KEY_HEADERS = (b"x-api-key", b"api-key")
_PREFLIGHT_SECONDS = b"600"


class SecurityStage:
    """Authenticates by ``Authorization: Bearer``, ``x-api-key`` or ``api-key``, then applies the route's policy.

    Fails closed: what cannot be known is :class:`~hx_gateway.errors.Unavailable`, raised by the authenticator. Whoever
    shows too many wrong keys gets 429 for the next ones that are wrong, never for a right one.
    """

    name: ClassVar[str] = "security"
    provides: ClassVar[frozenset[str]] = frozenset({"principal"})
    requires: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        cors_origins: Iterable[str] = (),
        throttle: FailureThrottle | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._throttle = FailureThrottle() if throttle is None else throttle
        self._origins = frozenset(origin.encode() for origin in cors_origins)

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``principal``; answer a browser's preflight; refuse with 401 or 403."""
        if self._origins and (reply := self._cors(ctx)) is not None:
            return reply
        policy = ctx.route.policy
        if policy.who is Who.ANYONE:
            return None
        presented = presented_key(ctx)
        if presented is None and (policy.who is Who.KEY_IF_SHOWN or (policy.who is Who.LOCAL_OR_ADMIN and ctx.local)):
            return None
        if presented is None:
            raise InvalidApiKey(
                "No API key was given: send it as 'Authorization: Bearer <key>'.",
                headers={"www-authenticate": "Bearer"},
            )
        principal = await self._authenticate(presented, ctx)
        check_rights(principal, ctx)
        ctx.principal = principal
        return None

    async def _authenticate(self, presented: str, ctx: Context) -> Principal:
        try:
            principal = await self._authenticator.authenticate(presented)
            if principal is None:
                raise InvalidApiKey("The API key is not valid.", headers={"www-authenticate": "Bearer"})
        except InvalidApiKey:
            self._throttle.failed(ctx.client)
            raise
        return principal

    def _cors(self, ctx: Context) -> Reply | None:
        origin = ctx.header(b"origin")
        if origin not in self._origins or origin is None:
            return None
        ctx.response_headers += [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        if ctx.method != "OPTIONS" or ctx.header(b"access-control-request-method") is None:
            return None
        return Reply(
            204,
            [
                (b"access-control-allow-methods", b"GET, POST, PATCH, PUT, DELETE"),
                (b"access-control-allow-headers", ctx.header(b"access-control-request-headers") or b""),
                (b"access-control-max-age", _PREFLIGHT_SECONDS),
            ],
        )


def check_holds(principal: Principal, scopes: frozenset[Scope]) -> None:
    """Raise ``Forbidden`` where ``principal`` does not hold all of ``scopes``."""
    if not principal.holds(scopes):
        missing = ", ".join(sorted(scopes - principal.scopes))
        raise Forbidden(f"The API key lacks the right {missing!r}.")


def check_rights(principal: Principal, ctx: Context) -> None:
    """Raise ``Forbidden`` where the route's policy, or the key's own, keeps ``principal`` out."""
    policy = ctx.route.policy
    if not principal.holds(policy.scopes) and not (policy.bound and principal.prefixes(policy.bound)):
        check_holds(principal, policy.scopes)
    if policy.roles is not None and principal.role not in policy.roles:
        allowed = ", ".join(sorted(policy.roles))
        raise Forbidden(f"The API key's role {principal.role.value!r} may not do this; needed is one of: {allowed}.")
    if principal.role is Role.READ_ONLY and (ctx.route.decoder is not None or Scope.PASSTHROUGH in policy.scopes):
        raise Forbidden("The API key is for reading only: it may not call models.")
    if not principal.may_take(ctx.path):
        raise Forbidden("The API key may not be used for this route.", code="route_not_allowed")


def presented_key(ctx: Context) -> str | None:
    """Return the key a request shows, ``None`` without one. Raises ``InvalidRequest`` for one shown twice."""
    found: bytes | None = None
    for name, value in ctx.headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            shown = key.strip() if scheme.lower() == b"bearer" else b""
        elif name in _KEY_HEADERS:
            shown = value.strip()
        else:
            continue
        if found is not None and shown != found:
            raise InvalidRequest("Two different API keys were given: send one.", code="ambiguous_key")
        found = shown
    if not found:
        return None
    if len(found) > MAX_KEY_LENGTH:
        raise InvalidApiKey("The API key is not valid.", headers={"www-authenticate": "Bearer"})
    return found.decode("latin-1")
