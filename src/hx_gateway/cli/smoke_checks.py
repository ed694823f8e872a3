"""What ``hx-gateway smoke`` asks a running gateway, and the answers that it expects."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from hx_gateway.services.upstream.base import Timeouts, UpstreamError, UpstreamRefused, UpstreamRequest
from hx_gateway.services.upstream.http_client import HttpUpstream

EXACT = "HX-OK"
# What LiteLLM answers where it should have a database and has none.
BROKEN_DATABASE = "No connected db"
# The routes of administrators that only read and whose paths are whole. A test compares them with the application's.
ADMIN_ROUTES = (
    "/v1/keys",
    "/v1/api_keys",
    "/v1/teams",
    "/v1/users",
    "/v1/tenants",
    "/v1/audit",
    "/v1/spend/logs",
    "/v1/spend/errors",
    "/v1/spend/summary",
    "/v1/prices",
    "/api/v1/registry/sync",
    "/api/v1/observability/dead_letters",
)
# Each store by its name in ``/healthz/deps``, and where its details are.
STORES = {"postgres": "/health/db", "redis": "/health/cache", "qdrant": "/health/vector"}
TIMEOUTS = Timeouts(connect=3, head=60, idle=30, total=90)
# Should it not be deleted, it ends by itself.
MEMBER_KEY_SECONDS = 300
SHOWN_CHARACTERS = 200

Outcome = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check; ``detail`` says what was seen where it did not pass."""

    name: str
    outcome: Outcome
    milliseconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Which gateway is asked, and what is expected of it. ``key`` is its admin key."""

    url: str
    key: str
    chat_model: str
    embedding_model: str
    embedding_length: int
    database: bool = True


class CheckFailed(Exception):
    """An answer that is not the one expected."""


class CheckSkipped(Exception):
    """A check that cannot be made; the text says why."""


class NobodyThere(Exception):
    """Nothing listens at the gateway's address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read whole."""

    status: int
    body: bytes

    def expect(self, status: int) -> Any:
        """Return the body decoded. Raises :class:`CheckFailed` for another status."""
        if self.status != status:
            raise self.unexpected(f"status {self.status}, not {status}")
        return json.loads(self.body) if self.body else None

    def unexpected(self, what: str) -> CheckFailed:
        """Return the failure that says ``what``, and what was answered."""
        return CheckFailed(f"{what}: {self.body[:SHOWN_CHARACTERS].decode('utf-8', 'replace')}")


class SmokeTest:
    """One run. ``told`` hears of each check as soon as it is made."""

    def __init__(self, target: Target, upstream: HttpUpstream, told: Callable[[Check], None]) -> None:
        self._target = target
        self._upstream = upstream
        self._told = told

    async def run(self) -> None:
        """Make every check in turn. One that finds nobody listening ends the run."""
        try:
            await self._run()
        except NobodyThere:
            return

    async def _run(self) -> None:
        target = self._target
        await self._check("models are listed", self._models)
        await self._check("/healthz/deps has the three stores", self._dependencies)
        for store in STORES:
            await self._check(f"{store} is healthy", partial(self._store, store))
        if target.database:
            await self._admin_routes()
        else:
            self._told(Check("admin routes", "skip", 0, "a gateway without a database has none"))
        await self._check(f"an embedding of {target.embedding_model} has its length", self._embedding)
        await self._check(f"{target.chat_model} says exactly what it is told", self._chat)
        await self._check(f"{target.chat_model} streams to the end", self._stream)

    async def _check(self, name: str, ask: Callable[[], Awaitable[str | None]]) -> None:
        """Make one check. What ``ask`` returns is told of a check that passed."""
        began = time.monotonic()
        outcome: Outcome = "pass"
        detail: str | None = ""
        try:
            detail = await ask()
        except CheckSkipped as skipped:
            outcome, detail = "skip", str(skipped)
        except CheckFailed as failed:
            outcome, detail = "fail", str(failed)
        except UpstreamRefused as refused:
            detail = "nothing listens there: start the gateway, or give its address with --url"
            self._told(Check(name, "fail", _milliseconds_since(began), detail))
            raise NobodyThere from refused
        except (UpstreamError, ValueError, LookupError, TypeError, AttributeError) as error:
            # An answer that is not the JSON that it should be is as good as none.
            outcome, detail = "fail", f"{type(error).__name__}: {error}"
        self._told(Check(name, outcome, _milliseconds_since(began), detail or ""))

    # Models and stores

    async def _models(self) -> None:
        answer = await self._ask("GET", "/v1/models")
        if not answer.expect(200)["data"]:
            raise answer.unexpected("there are none")

    async def _dependencies(self) -> None:
        answer = await self._ask("GET", "/healthz/deps", key=None)
        found = answer.expect(200)
        if found.keys() != STORES.keys() or not all(isinstance(healthy, bool) for healthy in found.values()):
            raise answer.unexpected("not one boolean for each of the stores")

    async def _store(self, store: str) -> str | None:
        answer = await self._ask("GET", "/healthz/deps", key=None)
        if answer.expect(200)[store] is not True:
            raise answer.unexpected("it is away")
        details = await self._ask("GET", STORES[store])
        if details.status == 404:
            return "its details are turned off (ENABLE_HEALTH_ENDPOINTS)"
        return "not configured" if details.expect(200)["status"] == "not_configured" else None

    # Admin routes

    async def _admin_routes(self) -> None:
        async with self._member_key() as member:
            for path in ADMIN_ROUTES:
                await self._check(f"GET {path}: 200 with the admin key", partial(self._answered, path, 200))
                await self._check(f"GET {path}: 401 without a key", partial(self._answered, path, 401, key=None))
                await self._check(f"GET {path}: 403 with a member's key", partial(self._kept_out, path, member))

    async def _answered(self, path: str, status: int, *, key: str | None = "") -> None:
        (await self._ask("GET", path, key=key)).expect(status)

    async def _kept_out(self, path: str, member: str | None) -> None:
        if member is None:
            raise CheckSkipped("there is no member's key")
        await self._answered(path, 403, key=member)

    @asynccontextmanager
    async def _member_key(self) -> AsyncIterator[str | None]:
        """Give the secret of a key without rights to administer, ``None`` where none can be made; delete the key."""
        made: dict[str, str] = {}

        async def make() -> None:
            wanted = {"name": "smoke test", "expires_in": MEMBER_KEY_SECONDS, "scopes": ["models"]}
            made.update((await self._ask("POST", "/v1/keys", wanted)).expect(201))

        async def delete() -> None:
            answer = await self._ask("DELETE", f"/v1/keys/{made['id']}")
            if answer.status != 200:
                raise answer.unexpected(f"{made['id']} is still there, and ends after {MEMBER_KEY_SECONDS} s")

        await self._check("a temporary member's key is made", make)
        try:
            yield made.get("key")
        finally:
            if made:
                await self._check("the temporary key is deleted", delete)

    # Model calls

    async def _embedding(self) -> None:
        request = {"model": self._target.embedding_model, "input": "hello"}
        answer = await self._ask("POST", "/v1/embeddings", request)
        length = len(answer.expect(200)["data"][0]["embedding"])
        if length != self._target.embedding_length:
            raise CheckFailed(f"{length} numbers, not {self._target.embedding_length}")

    async def _chat(self) -> None:
        answer = await self._ask("POST", "/v1/chat/completions", self._question())
        said = answer.expect(200)["choices"][0]["message"]["content"]
        if said.strip() != EXACT:
            raise CheckFailed(f"it said {said[:SHOWN_CHARACTERS]!r}")

    async def _stream(self) -> None:
        answer = await self._ask("POST", "/v1/chat/completions", {**self._question(), "stream": True})
        if answer.status != 200 or not answer.body.rstrip().endswith(b"data: [DONE]"):
            raise answer.unexpected(f"status {answer.status}, {len(answer.body)} bytes without their end")

    def _question(self) -> dict[str, Any]:
        message = {"role": "user", "content": f"Return exactly the text: {EXACT}"}
        return {"model": self._target.chat_model, "messages": [message], "max_tokens": 10, "temperature": 0}

    async def _ask(self, method: str, path: str, body: object = None, *, key: str | None = "") -> Answer:
        """Return an answer; ``""`` is the admin key, ``None`` no key at all."""
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key or self._target.key}"
        data = json.dumps(body).encode() if body is not None else b""
        url = self._target.url + path
        call = self._upstream.call(
            UpstreamRequest(method=method, url=url, headers=headers, body=data, timeouts=TIMEOUTS)
        )
        head = await call.head()
        answer = Answer(head.status, b"".join([chunk async for chunk in call.chunks()]))
        if BROKEN_DATABASE.encode() in answer.body:
            raise answer.unexpected(f"the answer says {BROKEN_DATABASE!r}")
        return answer


def _milliseconds_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
