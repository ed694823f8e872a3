"""Rows of spend, those who may ask for them, and the routes to ask."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.pipeline.routes import RouteTable
from hx_gateway.pricing.prices import Price, PriceList, flat
from hx_gateway.pricing.source import PriceSource
from hx_gateway.spend.repository import SpendRepository
from hx_gateway.spend.routes import spend_routes
from tests.unit.pipeline.doubles import context

NOW = datetime.now(UTC).replace(microsecond=0)
TODAY = NOW.date()
LIST_PRICE = Price(input_pico=2_500_000, output_pico=10_000_000, source="listed", version="1")

TABLES = """
ALTER TABLE hx_gateway.budget_windows ADD COLUMN IF NOT EXISTS soft_notified_at timestamptz;
INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by)
SELECT id, id, 'test', 'test' FROM unnest(ARRAY['default', 'acme', 'other']) AS id ON CONFLICT DO NOTHING;
"""
EMPTY = """
TRUNCATE hx_gateway.spend_logs, hx_gateway.error_logs, hx_gateway.spend_daily, hx_gateway.model_prices,
    hx_gateway.budget_windows, agent_observability.routing_decisions
"""


def principal(key_id: str, role: Role = Role.MEMBER, tenant: str = "acme", **more: Any) -> Principal:
    """Return a caller who holds all rights that its role may have."""
    scopes = frozenset(Scope) if role is Role.PLATFORM_ADMIN else frozenset(Scope) - {Scope.ADMIN}
    return Principal(key_id=KeyId(key_id), tenant_id=TenantId(tenant), scopes=scopes, role=role, **more)


PLATFORM = principal("admin", Role.PLATFORM_ADMIN, "default")
TENANT_ADMIN = principal("k-ta", Role.TENANT_ADMIN)
TEAM_ADMIN = principal("k-lead", Role.TEAM_ADMIN, team_id="tm-1", user_id="us-lead", admin_teams=frozenset({"tm-1"}))
MEMBER = principal("k-1", team_id="tm-1", user_id="us-1", member_teams=frozenset({"tm-1"}))
TEAM_KEY = principal("k-9", team_id="tm-1")
STRANGER = principal("k-1", Role.TENANT_ADMIN, "other")


class Listed:
    """A catalogue with one model."""

    def find(self, model: str, provider: str | None) -> PriceList | None:
        """Return the price of ``gpt``."""
        return flat(LIST_PRICE) if model == "gpt" else None


@dataclass(frozen=True)
class Told:
    """A reply, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def csv(self) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.body.decode(), newline="")))


@dataclass
class Asker:
    """Asks the routes of spend."""

    repository: SpendRepository
    prices: PriceSource

    async def ask(
        self, path: str, who: Principal = PLATFORM, *, method: str = "GET", body: object = b"", **query: Any
    ) -> Told:
        """Return the answer. Raises what the pipeline would make an answer of."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        ctx = context(path, method=method, body=data)
        ctx.query = "&".join(f"{name}={value.replace('+', '%2B')}" for name, value in query.items()).encode()
        ctx.principal = who
        RouteTable(spend_routes(self.repository, self.prices, default_cap=4_096)).match(ctx)
        assert who.holds(ctx.route.policy.scopes)
        assert ctx.route.handler is not None
        reply = await ctx.route.handler(ctx)
        whole = reply.body if isinstance(reply.body, bytes) else b"".join([chunk async for chunk in reply.body])
        return Told(reply.status, {name.decode(): value.decode() for name, value in reply.headers}, whole)

    async def ids(self, path: str, who: Principal = PLATFORM, **query: Any) -> list[str]:
        """Return the request ids of a page, in its order."""
        return [item["request_id"] for item in (await self.ask(path, who, **query)).json()["items"]]


@dataclass
class Rows:
    """Fills the tables; what is not given is made up."""

    connection: asyncpg.Connection[Any]
    made: int = field(default=0)

    async def log(self, request_id: str, *, ago: float = 60, **columns: Any) -> UUID:
        """Add a call that was admitted ``ago`` seconds ago."""
        values: dict[str, Any] = {
            "call_id": uuid4(),
            "request_id": request_id,
            "tenant_id": "acme",
            "key_id": "k-1",
            "team_id": None,
            "user_id": None,
            "operation": "chat",
            "requested_model": "gpt",
            "model": "gpt",
            "upstream": "gpt#1",
            "provider": "openai",
            "status": 200,
            "ending": "complete",
            "error_code": None,
            "stream": False,
            "attempts": 1,
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "cached_tokens": 0,
            "usage_source": "provider",
            "cost_nano": 350_000,
            "reserved_nano": 1_000_000,
            "settled_by": "done",
            "price_source": "listed",
            "price_version": "1",
            "input_pico": 2_500_000,
            "output_pico": 10_000_000,
            "charges": [],
            "cache": None,
            "tags": [],
            "admitted_at": NOW - timedelta(seconds=ago),
            "duration_ms": 12.5,
            "decision": "{}",
        }
        values |= columns
        await self._insert("spend_logs", values)
        return UUID(str(values["call_id"]))

    async def error(self, request_id: str, *, ago: float = 60, **columns: Any) -> UUID:
        """Add a refusal of ``ago`` seconds ago."""
        values: dict[str, Any] = {
            "call_id": uuid4(),
            "request_id": request_id,
            "tenant_id": "acme",
            "key_id": "k-1",
            "team_id": None,
            "user_id": None,
            "route": "chat_completions",
            "operation": "chat",
            "requested_model": "gpt",
            "model": "gpt",
            "upstream": None,
            "status": 429,
            "code": "insufficient_quota",
            "message": "The budget has no room.",
            "ending": "refused",
            "decision": "{}",
            "at": NOW - timedelta(seconds=ago),
        }
        values |= columns
        await self._insert("error_logs", values)
        return UUID(str(values["call_id"]))

    async def day(self, day: date = TODAY, **columns: Any) -> None:
        """Add the sums of a day."""
        values: dict[str, Any] = {
            "tenant_id": "acme",
            "day": day,
            "key_id": "k-1",
            "team_id": "",
            "user_id": "",
            "model": "gpt",
            "requests": 10,
            "errors": 1,
            "prompt_tokens": 1_000,
            "completion_tokens": 100,
            "cost_nano": 1_000_000_000,
        }
        await self._insert("spend_daily", values | columns)

    async def route(self, request_id: str, tenant: str = "acme") -> None:
        """Add a routing decision of the record."""
        await self.connection.execute(
            "INSERT INTO agent_observability.routing_decisions (tenant_id, timestamp, event_id, trace_id, user_request,"
            " selected_agent, confidence_score, alternatives, routing_strategy)"
            " VALUES ($1, $2, $3, $4, 'chat gpt', 'gpt#1', 1.0, $5, 'first_listed')",
            tenant,
            NOW - timedelta(seconds=60),
            uuid4(),
            request_id,
            '["gpt#2"]',
        )

    async def _insert(self, table: str, values: Mapping[str, Any]) -> None:
        marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self.connection.execute(
            f"INSERT INTO hx_gateway.{table} ({', '.join(values)}) VALUES ({marks})", *values.values()
        )
