"""Requests and stores made up for tests of single stages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hx_gateway.errors import BodyTooLarge
from hx_gateway.pipeline.context import Context, Headers, Reply
from hx_gateway.pipeline.routes import ANYONE, Policy, RouteSpec
from hx_gateway.services.base import FailureKind, HealthSample, PoolFigures


@dataclass
class FixedBody:
    """A body that is there already."""

    data: bytes = b""

    async def read(self, limit: int) -> bytes:
        if len(self.data) > limit:
            raise BodyTooLarge("too large")
        return self.data

    async def stream(self) -> AsyncIterator[bytes]:
        yield self.data


@dataclass
class FixedStore:
    """A store whose health a test sets."""

    key: str = "postgres"
    display_name: str = "PostgreSQL"
    configured: bool = True
    is_healthy: bool = True
    probes: int = 0
    pool: PoolFigures | None = None
    callbacks: list[Callable[[HealthSample], None]] = field(default_factory=list)

    @property
    def sample(self) -> HealthSample:
        failure = None if self.is_healthy else FailureKind.REFUSED
        return HealthSample(healthy=self.is_healthy, checked_at=0.0, failure=failure)

    async def connect(self) -> None: ...

    async def healthy(self) -> bool:
        self.probes += 1
        return self.is_healthy

    async def close(self) -> None: ...

    def report_failure(self, kind: FailureKind) -> None:
        self.is_healthy = False

    def on_change(self, callback: Callable[[HealthSample], None]) -> None:
        self.callbacks.append(callback)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


async def answer(_ctx: Context) -> Reply:
    return Reply(200, [])


def route(name: str = "thing", path: str = "/thing", policy: Policy = ANYONE, method: str = "GET") -> RouteSpec:
    return RouteSpec(name=name, methods=frozenset({method}), path=path, policy=policy, handler=answer)


def context(
    path: str = "/thing",
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes = b"",
    local: bool = False,
    spec: RouteSpec | None = None,
    raw_path: bytes | None = None,
) -> Context:
    ctx = Context(
        request_id="req_test",
        method=method,
        path=path,
        raw_path=raw_path if raw_path is not None else path.encode(),
        query=b"",
        headers=headers,
        client="203.0.113.7",
        local=local,
        scope={},
        body=FixedBody(body),
    )
    ctx.route = spec or route(path=path)
    return ctx
