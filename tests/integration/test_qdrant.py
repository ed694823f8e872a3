"""Qdrant's health, against a stand-in that checks what is asked of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from hx_gateway.services.base import FailureKind
from hx_gateway.services.qdrant import QdrantService


@dataclass
class StandIn:
    """Answers ``GET /collections`` with the key, and nothing else."""

    key: str | None = None
    status: int = 200
    hung: bool = False
    asked: list[bytes] = field(default_factory=list)
    port: int = 0

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head)
                if self.hung:
                    await asyncio.sleep(60)
                allowed = self.key is None or f"api-key: {self.key}".encode() in head
                right = head.startswith(b"GET /collections HTTP/1.1\r\n")
                status = (self.status if right else 404) if allowed else 401
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    made = StandIn()
    server = await asyncio.start_server(made.visit, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_server_that_answers_200_is_healthy(stand_in: StandIn, slash: str) -> None:
    stand_in.key = "made-up"
    url = f"http://127.0.0.1:{stand_in.port}{slash}"
    async with QdrantService(url, api_key="made-up") as service:
        assert service.sample.healthy
        assert await service.healthy()
    assert all(head.startswith(b"GET /collections HTTP/1.1\r\n") for head in stand_in.asked)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, FailureKind.AUTH), (500, FailureKind.PROTOCOL), (302, FailureKind.PROTOCOL)]
)
async def test_any_other_answer_is_not_healthy(stand_in: StandIn, status: int, kind: FailureKind) -> None:
    stand_in.status = status
    async with QdrantService(f"http://127.0.0.1:{stand_in.port}") as service:
        assert not await service.healthy()
        assert service.sample.failure is kind


async def test_a_hung_server_is_noticed_and_heals(stand_in: StandIn) -> None:
    async with QdrantService(f"http://127.0.0.1:{stand_in.port}") as service:
        assert service.sample.healthy
        stand_in.hung = True
        await until(lambda: not service.sample.healthy)
        stand_in.hung = False
        await until(lambda: service.sample.healthy)


async def test_a_server_that_is_away_does_not_stop_the_start() -> None:
    async with QdrantService("http://127.0.0.1:1") as service:
        assert not service.sample.healthy
        assert service.sample.failure is FailureKind.REFUSED
