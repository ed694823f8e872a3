"""The bank test's parts: a model's server that keeps its own bill, clients that come and go, and what breaks things."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Servers

MODEL = "billed"
INPUT_NANO, OUTPUT_NANO = 10, 100
MAX_TOKENS = 24
TOKEN = b"token "
CLIENT_SECONDS = 30.0
CONFIG = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{port}/v1
      api_key: made-up-for-the-bank-test
      input_cost_per_token: {input_usd}
      output_cost_per_token: {output_usd}
"""


def model_config(port: int) -> str:
    """Return the models' file of a gateway whose only model is on ``port``."""
    usd = 1e-9
    return CONFIG.format(
        model=MODEL, port=port, input_usd=f"{INPUT_NANO * usd:.9f}", output_usd=f"{OUTPUT_NANO * usd:.9f}"
    )


@dataclass
class Billed:
    """What one call is billed for. ``streamed`` calls are billed event by event, others when they are answered."""

    prompt: int = 0
    completion: int = 0
    calls: int = 0
    streamed: bool = False

    @property
    def nano(self) -> int:
        return self.prompt * INPUT_NANO + self.completion * OUTPUT_NANO


class BillingServer:
    """Speaks enough of OpenAI's API, and bills whatever it was asked for, by request id."""

    def __init__(self, seed: int) -> None:
        self.bill: dict[str, Billed] = {}
        self.port = 0
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                await self._answer(fields["x-request-id"], body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, request_id: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        entry = self.bill.setdefault(request_id, Billed())
        entry.calls += 1
        tokens = self._random.randint(1, min(MAX_TOKENS, body.get("max_tokens") or MAX_TOKENS))
        prompt = len(str(body["messages"][-1]["content"]).split())
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        if not body.get("stream"):
            await asyncio.sleep(self._random.uniform(0.002, 0.06))
            if reader.at_eof():
                raise ConnectionResetError
            entry.prompt += prompt
            entry.completion += tokens
            answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "tok " * tokens}}]}
            data = json.dumps({"id": request_id, "object": "chat.completion", **answer, "usage": usage}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data))
            writer.write(data)
            await writer.drain()
            return
        entry.streamed = True
        entry.prompt += prompt
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        _event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for _ in range(tokens):
            await asyncio.sleep(self._random.uniform(0.001, 0.006))
            if reader.at_eof():
                raise ConnectionResetError
            entry.completion += 1
            _event(writer, {"choices": [{"index": 0, "delta": {"content": TOKEN.decode()}}]})
            await writer.drain()
        _event(writer, {"choices": [], "usage": usage})
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    writer.write(_chunk(b"data: " + json.dumps({"object": "chat.completion.chunk", **body}).encode() + b"\n\n"))


@dataclass
class Seen:
    """What the clients saw, by request id: ``ok``, ``left`` (they went away), ``broken``, or the status.

    ``tokens``: how many tokens of a streamed answer came, by the id of its request.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def count(self, *outcomes: str) -> int:
        return sum(outcome in outcomes for outcome in self.outcomes.values())


class Clients:
    """Tasks that call models through whichever gateway, with whichever key, and sometimes go away."""

    def __init__(self, gateways: Sequence[Gateway], keys: Sequence[str], seed: int) -> None:
        self.seen = Seen()
        self._gateways = gateways
        self._keys = keys
        self._random = random.Random(seed)
        self._number = 0

    async def run(self, tasks: int, until: float) -> None:
        """Call until the monotonic time ``until``."""
        await asyncio.gather(*(self._loop(until) for _ in range(tasks)))

    async def _loop(self, until: float) -> None:
        while time.monotonic() < until:
            self._number += 1
            request_id = f"bank-{self._number}"
            self.seen.outcomes[request_id] = outcome = await self._call(request_id)
            if outcome != "ok":
                await asyncio.sleep(0.05)

    async def _call(self, request_id: str) -> str:
        chance = self._random
        gateway, key = chance.choice(self._gateways), chance.choice(self._keys)
        patience = chance.uniform(0.001, 0.08) if chance.random() < 0.15 else CLIENT_SECONDS
        words = " ".join(["word"] * chance.randint(1, 20))
        body = {"model": MODEL, "messages": [{"role": "user", "content": words}], "max_tokens": MAX_TOKENS}
        body["stream"] = chance.random() < 0.5
        writer, answer = None, b""
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                data = json.dumps(body).encode()
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                head += f"x-request-id: {request_id}\r\ncontent-type: application/json\r\n"
                head += f"content-length: {len(data)}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode() + data)
                while piece := await reader.read(65536):
                    answer += piece
        except TimeoutError:
            return "left" if patience < CLIENT_SECONDS else "broken"
        except OSError:
            return "broken"
        finally:
            self.seen.tokens[request_id] = answer.count(TOKEN)
            if writer is not None:
                writer.transport.abort()
        status = answer[9:12].decode()
        if status != "200":
            return status or "broken"
        ended = b"[DONE]" in answer if body["stream"] else answer.endswith(b"}")
        return "ok" if ended else "broken"


class Nemesis:
    """Does something bad every so often, and undoes it."""

    def __init__(self, servers: Servers, gateways: Sequence[Gateway], seed: int) -> None:
        self.done: list[str] = []
        self._servers = servers
        self._gateways = gateways
        self._random = random.Random(seed)

    async def run(self, until: float, pause: float) -> None:
        """Break one thing after the other until the monotonic time ``until``."""
        actions: list[tuple[str, Callable[[], Any]]] = [
            ("kill a gateway", self._kill_gateway),
            ("end a gateway", self._end_gateway),
            ("stop a gateway", self._stop_gateway),
            ("kill Redis", lambda: self._bounce(self._servers.redis)),
            ("empty Redis", self._empty_redis),
            ("stop Redis", lambda: self._freeze(self._servers.redis)),
            ("kill PostgreSQL", lambda: self._bounce(self._servers.postgres)),
            ("stop PostgreSQL", lambda: self._freeze(self._servers.postgres)),
        ]
        self._random.shuffle(actions)
        turn = 0
        while time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            name, action = actions[turn % len(actions)]
            turn += 1
            self.done.append(name)
            await action()

    def heal(self) -> None:
        """Nothing to undo: every action undoes itself before the next."""

    async def _kill_gateway(self) -> None:
        gateway = self._random.choice(self._gateways)
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)

    async def _end_gateway(self) -> None:
        gateway = self._random.choice(self._gateways)
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(gateway.start)

    async def _stop_gateway(self) -> None:
        gateway = self._random.choice(self._gateways)
        assert gateway.process is not None
        gateway.process.send_signal(19)
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        gateway.process.send_signal(18)

    async def _bounce(self, server: Any) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        await asyncio.to_thread(server.start)

    async def _freeze(self, server: Any) -> None:
        server.freeze()
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        server.thaw()

    async def _empty_redis(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._servers.redis.port)
        writer.write(b"FLUSHALL\r\n")
        with suppress(OSError):
            await reader.readline()
        writer.close()
