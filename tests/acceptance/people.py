"""Two tenants with their people, made over HTTP, and a key for everybody who may come."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.fixtures.gateway import Answer, Gateway
from tests.fixtures.servers import Servers

SCOPES = ["models", "events:read", "events:write", "registry:read", "registry:write", "spend:read"]
# For tests whose services have addresses that are made up: nobody looks for them.
UNPROBED = {"HX_REGISTRY_PROBING": "false"}
# What changes is known everywhere within a second; five times that, and what a busy machine needs.
NOTICED_SECONDS = 15.0


def somewhere() -> dict[str, str]:
    """Return the header of a proxy for an address of its own: many wrong keys from one are throttled."""
    return {"x-forwarded-for": ".".join(str(part) for part in (10, *uuid4().bytes[:3]))}


@dataclass
class People:
    """A gateway and who asks it. Every method is the platform admin's unless it is given another ``key``."""

    gateway: Gateway

    def ask(self, method: str, path: str, body: object = None, *, key: str | None = None, **more: Any) -> Answer:
        """Return the answer; ``""`` is no key at all."""
        return self.gateway.request(method, path, body, key=self.gateway.key if key is None else key or None, **more)

    def made(self, kind: str, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Return a new object; fields that are ``None`` are not sent."""
        body = {"name": f"made up {uuid4().hex[:12]}", **fields}
        answer = self.ask("POST", f"/v1/{kind}", {n: v for n, v in body.items() if v is not None}, key=key)
        assert answer.status == 201, answer.body
        return dict(answer.json())

    def done(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Any:
        """Return the answer to a request that works."""
        answer = self.ask(method, path, body, key=key)
        assert answer.status == 200, answer.body
        return answer.json()

    def key(self, **fields: Any) -> dict[str, Any]:
        """Return a new key that may call models and read."""
        return self.made("keys", **{"scopes": SCOPES, **fields})

    def is_let_in(self, secret: str) -> bool:
        return self.ask("GET", "/v1/models", key=secret, headers=somewhere()).status == 200

    def until(self, secret: str, *, let_in: bool) -> None:
        """Return once a key is let in, or is not."""
        self.gateway.wait_until(lambda: self.is_let_in(secret) is let_in, NOTICED_SECONDS)


@dataclass
class World:
    """Who there is. ``keys`` has the secret of each, by what it is; ``""`` is no key at all."""

    people: People
    tenant: str
    team: str
    user: str
    own_key: str
    rival: str
    keys: Mapping[str, str]


def populate(people: People) -> World:
    """Make the tenants ``acme-…`` and ``rival-…`` and everybody in them."""
    mark = uuid4().hex[:8]
    tenant = people.made("tenants", id=f"acme-{mark}")["id"]
    rival = people.made("tenants", id=f"rival-{mark}")["id"]
    team = people.made("teams", tenant_id=tenant)["id"]
    member = people.made("users", tenant_id=tenant)["id"]
    lead = people.made("users", tenant_id=tenant)["id"]
    people.done("PUT", f"/v1/teams/{team}/members/{member}", {"role": "member"})
    people.done("PUT", f"/v1/teams/{team}/members/{lead}", {"role": "admin"})
    own = people.key(tenant_id=tenant, team_id=team, user_id=member)
    revoked = people.key(tenant_id=tenant, team_id=team)
    expired = people.key(tenant_id=tenant, team_id=team, expires_in=1)
    people.done("DELETE", f"/v1/keys/{revoked['id']}")
    keys = {
        "no key": "",
        "revoked": revoked["key"],
        "expired": expired["key"],
        "other tenant": people.key(tenant_id=rival, admin_role="tenant_admin")["key"],
        "member": own["key"],
        "team admin": people.key(tenant_id=tenant, user_id=lead)["key"],
        "tenant admin": people.key(tenant_id=tenant, admin_role="tenant_admin")["key"],
        "platform admin": people.gateway.key,
    }
    for who, secret in keys.items():
        people.until(secret, let_in=who not in ("no key", "revoked", "expired"))
    return World(people, tenant, team, member, own["id"], rival, keys)


@contextmanager
def living(servers: Servers, environ: Mapping[str, str] | None = None) -> Iterator[People]:
    """Run a gateway with both stores, and wait until its tables are there."""
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        stores = {"PG_URL": servers.postgres.ordinary_url(), "REDIS_URL": servers.redis.url, "QDRANT_URL": "none"}
        gateway = Gateway({**stores, "HX_TRUSTED_PROXIES": "127.0.0.1", **(environ or {})}, Path(directory)).start()
        people = People(gateway)
        try:
            gateway.wait_until(lambda: people.ask("GET", "/v1/keys").status == 200)
            yield people
        finally:
            gateway.stop()
