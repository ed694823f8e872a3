"""The admin API behind the whole pipeline in one process, over a directory that remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hx_gateway.access.directory import Directory
from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.access.resources import Actor, ListQuery, Page, ResourceKind
from hx_gateway.admin.answers import AUDIT_EXAMPLE, KEY_EXAMPLE, TEAM_EXAMPLE, TENANT_EXAMPLE, USER_EXAMPLE
from hx_gateway.admin.router import BUILT, admin_routes, include
from hx_gateway.errors import HXError
from hx_gateway.events import RequestFinished
from hx_gateway.gateway.model_table import ModelTable
from hx_gateway.http.api import api_routes, build_api, serve_document
from hx_gateway.http.asgi_handler import AsgiHandler
from hx_gateway.http.bridge import PipelineBridge
from hx_gateway.http.client_address import ClientAddresses
from hx_gateway.http.drain import Drain
from hx_gateway.http.health import HealthSources, health_routes
from hx_gateway.http.reserved import reserved_routes
from hx_gateway.pipeline.build import PipelineParts, build_pipeline
from hx_gateway.pipeline.routes import RouteTable
from hx_gateway.telemetry import Metrics
from tests.unit.pipeline.doubles import FixedStore

PREFIXES = ("/v1/keys", "/v1/api_keys", "/v1/teams", "/v1/users", "/v1/tenants")
SHOWN = {
    ResourceKind.TENANT: TENANT_EXAMPLE,
    ResourceKind.TEAM: TEAM_EXAMPLE,
    ResourceKind.USER: USER_EXAMPLE,
    ResourceKind.KEY: KEY_EXAMPLE,
}
MEMBER = {"team_id": "tm-a", "user_id": "us-a", "role": "member"}
SECRET = "made up, shown once"


def principal(role: Role, **more: Any) -> Principal:
    scopes = frozenset(Scope) if role is Role.PLATFORM_ADMIN else frozenset()
    return Principal(key_id=KeyId(role.value), tenant_id=TenantId("acme"), scopes=scopes, role=role, **more)


CALLERS = {
    "root": principal(Role.PLATFORM_ADMIN),
    "tenant": principal(Role.TENANT_ADMIN),
    "team": principal(Role.TEAM_ADMIN, admin_teams=frozenset({"tm-a"})),
    "member": principal(Role.MEMBER),
    "reader": principal(Role.READ_ONLY),
}


class Keys:
    """Knows the callers by their names."""

    async def authenticate(self, presented: str) -> Principal | None:
        return CALLERS.get(presented)


@dataclass
class FakeDirectory:
    """Answers with the examples; ``error`` is raised instead where there is one."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    error: HXError | None = None
    replayed: bool = False

    def _note(self, actor: Actor, *what: Any) -> None:
        self.actors.append(actor)
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def create(
        self, actor: Actor, kind: ResourceKind, fields: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        self._note(actor, "create", kind, dict(fields), idempotency_key)
        secret = {"key": None if self.replayed else SECRET} if kind is ResourceKind.KEY else {}
        return {**SHOWN[kind], **secret, **({"replayed": True} if self.replayed else {}), "digest": b"never shown"}

    async def get(
        self, actor: Actor, kind: ResourceKind, object_id: str, *, include_deleted: bool = False
    ) -> dict[str, Any]:
        self._note(actor, "get", kind, object_id, *(["deleted too"] if include_deleted else []))
        return {**SHOWN[kind], "digest": b"never shown", "key": SECRET}

    async def list(self, actor: Actor, kind: ResourceKind, query: ListQuery) -> Page:
        self._note(actor, "list", kind, query)
        return Page(items=[SHOWN[kind]], next_cursor="more")

    async def update(
        self, actor: Actor, kind: ResourceKind, object_id: str, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._note(actor, "update", kind, object_id, dict(changes))
        return SHOWN[kind]

    async def delete(self, actor: Actor, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        self._note(actor, "delete", kind, object_id)
        return SHOWN[kind]

    async def restore(self, actor: Actor, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        self._note(actor, "restore", kind, object_id)
        return SHOWN[kind]

    async def rotate(self, actor: Actor, key_id: str, grace_seconds: int) -> dict[str, Any]:
        self._note(actor, "rotate", key_id, grace_seconds)
        return {**KEY_EXAMPLE, "key": SECRET}

    async def block(self, actor: Actor, key_id: str) -> dict[str, Any]:
        self._note(actor, "block", key_id)
        return {**KEY_EXAMPLE, "blocked": True}

    async def unblock(self, actor: Actor, key_id: str) -> dict[str, Any]:
        self._note(actor, "unblock", key_id)
        return KEY_EXAMPLE

    async def set_member(self, actor: Actor, team_id: str, user_id: str, role: str) -> dict[str, Any]:
        self._note(actor, "set_member", team_id, user_id, role)
        return {**MEMBER, "role": role}

    async def remove_member(self, actor: Actor, team_id: str, user_id: str) -> dict[str, Any]:
        self._note(actor, "remove_member", team_id, user_id)
        return MEMBER

    async def members(self, actor: Actor, team_id: str) -> list[dict[str, Any]]:  # type: ignore[valid-type]
        self._note(actor, "members", team_id)
        return [MEMBER]

    async def audit(self, actor: Actor, query: ListQuery) -> Page:
        self._note(actor, "audit", query)
        return Page(items=[AUDIT_EXAMPLE], next_cursor=None)


@dataclass
class Told:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.json()["error"])


class Events:
    """Keeps what became of requests."""

    def __init__(self) -> None:
        self.seen: list[RequestFinished] = []

    def emit(self, event: RequestFinished) -> None:
        self.seen.append(event)


class Asking:
    """The application, asked without a socket."""

    def __init__(self, *, built: frozenset[str] = BUILT) -> None:
        self.directory = FakeDirectory()
        self.postgres, self.redis = FixedStore(), FixedStore("redis", "Redis")
        self.events = Events()
        metrics = Metrics()
        drain = Drain()
        api = self._api = build_api(HealthSources({}, drain, metrics))
        include(api, cast(Directory, self.directory))
        handler = AsgiHandler(api)
        self.table = RouteTable(
            [
                *admin_routes(handler),
                *reserved_routes(PREFIXES, built),
                *health_routes(handler),
                *api_routes(handler),
            ]
        )
        serve_document(api, self.table.routes)
        parts = PipelineParts(
            authenticator=Keys(),
            postgres=self.postgres,
            redis=self.redis,
            models=ModelTable(),
            upstreams={},
            guarded_prefixes=PREFIXES,
        )
        self._bridge = PipelineBridge(
            build_pipeline(parts, self.table),
            drain=drain,
            sink=self.events,
            addresses=ClientAddresses(()),
            metrics=metrics,
        )

    def forget(self) -> None:
        """Be as new: to build the application takes longer than to ask it."""
        self.directory = self._api.state.directory = FakeDirectory()
        self.postgres.is_healthy = self.redis.is_healthy = True
        self.events.seen.clear()

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "root",
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Told:
        """Return the answer to one request."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        sent = {"host": "gateway.test", "content-length": str(len(data)), **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        if data:
            sent.setdefault("content-type", "application/json")
        path, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("192.0.2.7", 1234),
            "server": ("192.0.2.1", 4010),
        }
        messages: list[dict[str, Any]] = []
        waiting = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> Any:
            if not waiting:
                await asyncio.Event().wait()
            return waiting.pop()

        async def send(message: Any) -> None:
            messages.append(message)

        await self._bridge.handle(scope, receive, send)
        found = {name.decode(): value.decode("latin-1") for name, value in messages[0]["headers"]}
        return Told(messages[0]["status"], found, b"".join([part.get("body", b"") for part in messages[1:]]))
