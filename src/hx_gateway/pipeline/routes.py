"""What a plane says of each of its routes, and the table that finds one for a request."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hx_gateway.access.principal import BoundScope, Role, Scope
from hx_gateway.errors import InvalidRequest, MethodNotAllowed
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.translate.openai import ModelRequest

Handler = Callable[[Context], Awaitable[Reply]]
Decoder = Callable[[bytes], ModelRequest]


class RouteError(Exception):
    """A route that must not be registered; the text names it."""


class Who(StrEnum):
    """Who may use a route."""

    ANYONE = "anyone"
    KEY = "key"
    KEY_IF_SHOWN = "key_if_shown"
    LOCAL_OR_ADMIN = "local_or_admin"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may use a route, which rights they need, and which role (``None``: any).

    A right to any prefix (``bound``) lets in too: the handler says which names it is good for.
    """

    who: Who
    scopes: frozenset[Scope] = frozenset()
    roles: frozenset[Role] | None = None
    bound: BoundScope | None = None


ANYONE = Policy(Who.ANYONE)
LOCAL_OR_ADMIN = Policy(Who.LOCAL_OR_ADMIN, frozenset({Scope.ADMIN}))


def needs(*scopes: Scope) -> Policy:
    """Return the policy of a route for keys that hold ``scopes``."""
    return Policy(Who.KEY, frozenset(scopes))


def open_to_all(*scopes: Scope) -> Policy:
    """Return the policy of a route that needs no key; one that is shown must be good all the same, and hold ``scopes``.

    Whoever shows none has no principal: the handler says what is there for everybody.
    """
    return Policy(Who.KEY_IF_SHOWN, frozenset(scopes))


def needs_role(*roles: Role) -> Policy:
    """Return the policy of a route for keys of one of ``roles``; platform admins may use all of them."""
    return Policy(Who.KEY, roles=frozenset({Role.PLATFORM_ADMIN, *roles}))


class Needs(StrEnum):
    """Which stores a route cannot do without (its dependency class)."""

    NOTHING = "nothing"
    KEY_CACHE = "key_cache"
    STORES = "stores"


class BodyRule(StrEnum):
    """How a route takes its body."""

    NONE = "none"
    JSON = "json"
    STREAM = "stream"


class ErrorShape(StrEnum):
    """How a route tells of an error: as OpenAI does, as RFC 9457 says, or so that clients of MCP's registry read it."""

    OPENAI = "openai"
    PROBLEM = "problem"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """One route. ``path`` ends in ``{name}`` for one or more trailing segments; it is matched decoded.

    ``name`` is the bounded label of logs and metrics. ``openapi`` is the operation object of the document.
    ``while_draining`` routes answer while the server is about to stop. A route has a handler, or a decoder whose result
    is called upstream. A ``counted`` route's requests count against the limits of their key like calls of models.
    """

    name: str
    methods: frozenset[str]
    path: str
    policy: Policy
    handler: Handler | None = None
    needs: Needs = Needs.NOTHING
    body: BodyRule = BodyRule.NONE
    body_limit: int | None = None
    decoder: Decoder | None = None
    errors: ErrorShape = ErrorShape.PROBLEM
    while_draining: bool = False
    counted: bool = False
    openapi: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a route that says nothing of who may use it, or whose parts do not fit."""
        if not isinstance(self.policy, Policy):
            raise RouteError(f"route {self.name!r} has no policy: say who may use it")
        if not self.methods:
            raise RouteError(f"route {self.name!r} has no method")
        if not self.path.startswith("/"):
            raise RouteError(f"route {self.name!r}: the path {self.path!r} does not start with '/'")
        if (self.handler is None) == (self.decoder is None):
            raise RouteError(f"route {self.name!r} needs a handler, or a decoder that makes it a model call")
        if self.decoder is not None and self.body is not BodyRule.JSON:
            raise RouteError(f"route {self.name!r} decodes a body that it does not take")


# Targets whose meaning differs between servers: empty and dot segments, encoded slashes and control characters,
# parameters, back-slashes.
_AMBIGUOUS = re.compile(rb"//|/\.{1,2}(?:/|$)|%2e|%5c|%[01][0-9a-f]|%7f|[\\;]|%3b", re.IGNORECASE)
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
SLASH_IN_PARAMETER = b"/v1/models/"
# The official registry's names of servers have one slash, which its clients encode. Nothing but a whole name may stand
# on both sides of it.
_SLASH_IN_SERVER_NAME = re.compile(
    rb"/v0(?:\.1)?/servers/[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
    rb"%2[Ff][A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?=/|\Z)"
)
PARAMETER = re.compile(r"\{(\w+)\}$")


class RouteTable:
    """Finds the route of a request: an exact path first, then the longest prefix that ends in a parameter."""

    def __init__(self, routes: Iterable[RouteSpec]) -> None:
        self._exact: dict[str, dict[str, RouteSpec]] = {}
        self._prefix: dict[str, tuple[str, dict[str, RouteSpec]]] = {}
        self.routes = tuple(routes)
        names: set[str] = set()
        for route in self.routes:
            if route.name in names:
                raise RouteError(f"two routes are named {route.name!r}")
            names.add(route.name)
            self._add(route)
        self._prefixes = sorted(self._prefix, key=len, reverse=True)

    def _add(self, route: RouteSpec) -> None:
        parameter = PARAMETER.search(route.path)
        if parameter:
            prefix = route.path[: parameter.start()]
            methods = self._prefix.setdefault(prefix, (parameter[1], {}))[1]
        else:
            methods = self._exact.setdefault(route.path, {})
        for method in route.methods:
            if method in methods:
                raise RouteError(f"{method} {route.path} is registered twice")
            methods[method] = route

    def match(self, ctx: Context) -> None:
        """Set the route of ``ctx`` and its path parameters.

        Raises ``InvalidRequest`` for a target that two servers may read differently, ``MethodNotAllowed`` where only
        the method is wrong. A table holds a route for ``/{path}``, so that every path finds one.
        """
        check_target(ctx.raw_path)
        methods = self._exact.get(ctx.path)
        if methods is None:
            methods = self._match_prefix(ctx)
        route = methods.get(ctx.method) or methods.get("*")
        if route is None and ctx.method == "HEAD":
            route = methods.get("GET")
        if route is None:
            raise MethodNotAllowed(f"{ctx.method!r} is not a method of {ctx.path!r}.", allow=tuple(methods))
        ctx.route = route

    def _match_prefix(self, ctx: Context) -> dict[str, RouteSpec]:
        for prefix in self._prefixes:
            if ctx.path.startswith(prefix) and len(ctx.path) > len(prefix):
                parameter, methods = self._prefix[prefix]
                ctx.path_params = {parameter: ctx.path[len(prefix) :]}
                return methods
        raise RouteError(f"no route for {ctx.path!r}: the table has no catch-all")


def check_target(raw_path: bytes) -> None:
    """Raise ``InvalidRequest`` for a path that two servers may read differently.

    Whoever decides about a path must see what the one behind sees: encoded dots and slashes, empty segments and
    path parameters are how requests slip past a check on a prefix.
    """
    name = _SLASH_IN_SERVER_NAME.match(raw_path)
    slash = _ENCODED_SLASH.search(raw_path, name.end() if name is not None else 0)
    if raw_path.startswith(SLASH_IN_PARAMETER):
        slash = None
    if slash or (raw_path != b"/" and _AMBIGUOUS.search(raw_path)):
        raise InvalidRequest("The path is ambiguous: send it without empty or dot segments.", code="ambiguous_path")


def under(path: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether ``path`` is one of ``prefixes`` or below it, by whole segments."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)
