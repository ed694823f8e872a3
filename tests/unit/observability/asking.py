"""The record's routes over a layer without a database, asked without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hx_gateway.access.admin_key import ADMIN_PRINCIPAL
from hx_gateway.access.principal import KeyId, Principal, Scope, TenantId
from hx_gateway.journal.copy_rows import decode_row, split_rows
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.segment import SUFFIX
from hx_gateway.observability.config import DatabaseConfig
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.routes import record_routes
from hx_gateway.pipeline.routes import RouteTable
from tests.unit.pipeline.doubles import context

PREFIX = "/api/v1/observability"
WRITER = Principal(
    key_id=KeyId("k1"), tenant_id=TenantId("acme"), scopes=frozenset({Scope.EVENTS_WRITE, Scope.EVENTS_READ})
)


@dataclass(frozen=True)
class Told:
    """A reply, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Asker:
    """Asks the routes of one layer."""

    layer: DatabaseIntegrationLayer

    async def ask(
        self,
        method: str,
        path: str,
        body: object = b"",
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        principal: Principal = WRITER,
    ) -> Told:
        """Return the answer. Raises what the pipeline would make an answer of."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        ctx = context(path if path.startswith("/v1") else PREFIX + path, method=method, headers=sent, body=data)
        ctx.query = query.encode()
        ctx.principal = principal
        RouteTable(record_routes(self.layer)).match(ctx)
        assert principal.holds(ctx.route.policy.scopes)
        assert ctx.route.handler is not None
        reply = await ctx.route.handler(ctx)
        whole = reply.body if isinstance(reply.body, bytes) else b"".join([chunk async for chunk in reply.body])
        return Told(reply.status, {name.decode(): value.decode() for name, value in reply.headers}, whole)

    async def post(self, body: object, **more: Any) -> Told:
        """Send events."""
        return await self.ask("POST", "/events", body, **more)

    def kept(self, table: str = "trace_events") -> list[dict[str, Any]]:
        """Return the rows of ``table`` that are in the journal."""
        found = []
        journal = self.layer.journal
        assert journal.folder is not None
        for path in sorted(journal.folder.glob(f"*{SUFFIX}")):
            for record in read_segment(path):
                kind = journal.kinds[record.kind]
                if kind.name == table and kind.format is not None:
                    found += [decode_row(row, kind.format) for row in split_rows(record.payload)]
        return found


ADMIN = ADMIN_PRINCIPAL


@asynccontextmanager
async def asker(folder: Path, **config: Any) -> AsyncIterator[Asker]:
    """Open a layer's journal in ``folder``, and nothing that drains it."""
    layer = DatabaseIntegrationLayer(DatabaseConfig(url="none", journal_dir=folder, **config))
    layer.journal.open()
    yield Asker(layer)
    layer.journal.close()
