"""``hx-gateway smoke``: ask a running gateway what its users would, a line a check."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hx_gateway.cli.client import kept_key
from hx_gateway.cli.start import fail
from hx_gateway.services.upstream.base import Timeouts, UpstreamError, UpstreamRefused, UpstreamRequest
from hx_gateway.services.upstream.http_client import HttpUpstream

EXACT = "HX-OK"
BROKEN_DATABASE = "No connected db"
ADMIN_ROUTES = ("/v1/keys", "/v1/teams", "/v1/users", "/v1/tenants")
STORES = ("postgres", "redis", "qdrant")
TIMEOUTS = Timeouts(connect=3, head=60, idle=30, total=90)
EXIT_FAILED = 1
# Should it not be deleted, it ends by itself.
MEMBER_KEY_SECONDS = 300

Outcome = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check; ``detail`` says what was seen where it did not pass."""

    name: str
    outcome: Outcome
    milliseconds: float
    detail: str = ""


class CheckFailed(Exception):
    """An answer that is not the one expected."""


class CheckSkipped(Exception):
    """A check that means nothing yet; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which gateway is asked, and what is expected of it."""

    url: str
    key: str
    chat_model: str
    embedding_model: str
    embedding_length: int


def smoke(
    url: Annotated[str, typer.Option(help="The gateway's address.")] = "http://127.0.0.1:4010",
    key: Annotated[str | None, typer.Option(help="The admin key (HX_ADMIN_KEY, or the data directory's).")] = None,
    chat_model: Annotated[str, typer.Option(help="A chat model that does as it is told.")] = "hx-chat",
    embedding_model: Annotated[str, typer.Option(help="An embedding model.")] = "emb-premium",
    embedding_length: Annotated[int, typer.Option(help="How many numbers its embeddings have.")] = 384,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a running gateway: models, stores, admin routes, an embedding, a chat."""
    found = key or os.environ.get("HX_ADMIN_KEY") or kept_key()
    if found is None:
        fail("no admin key: give --key, set HX_ADMIN_KEY, or set HX_DATA_DIR to the gateway's data directory.")
    target = Target(url.rstrip("/"), found, chat_model, embedding_model, embedding_length)
    checks = asyncio.run(run_checks(target))
    failed = sum(check.outcome == "fail" for check in checks)
    if as_json:
        result = {"url": target.url, "ok": not failed, "checks": [asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(checks, failed)
    raise SystemExit(EXIT_FAILED if failed else 0)


async def run_checks(target: Target) -> list[Check]:
    """Run every check in turn. The first one that finds nobody listening ends the run."""
    upstream = HttpUpstream()
    asker = Asker(target, upstream)
    checks: list[Check] = []
    try:
        for name, run in asker.all():
            checks.append(await _timed(name, run))
            if checks[-1].detail.startswith("nothing listens"):
                break
    finally:
        await upstream.close()
    return checks


async def _timed(name: str, run: Callable[[], Awaitable[None]]) -> Check:
    began = time.monotonic()
    outcome: Outcome = "pass"
    detail = ""
    try:
        await run()
    except CheckSkipped as skipped:
        outcome, detail = "skip", str(skipped)
    except CheckFailed as failed:
        outcome, detail = "fail", str(failed)
    except UpstreamRefused:
        outcome, detail = "fail", "nothing listens there: start the gateway, or give its address with --url"
    except (UpstreamError, ValueError, KeyError, IndexError, TypeError) as error:
        outcome, detail = "fail", f"{type(error).__name__}: {error}"
    return Check(name, outcome, round((time.monotonic() - began) * 1000, 1), detail)


class Asker:
    """The checks."""

    def __init__(self, target: Target, upstream: HttpUpstream) -> None:
        self._target = target
        self._upstream = upstream

    def all(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return each check with its name, in order."""
        return [
            ("models are listed", self.models),
            *((f"{store} is healthy", self._store(store)) for store in STORES),
            *((f"{path} with the admin key", self._admin(path)) for path in ADMIN_ROUTES),
            *((f"{path} without a key is refused", self._no_key(path)) for path in ADMIN_ROUTES),
            ("a member key is refused on admin routes", self.member_key),
            (f"an embedding of {self._target.embedding_model} has its length", self.embedding),
            (f"{self._target.chat_model} says exactly what it is told", self.chat),
            (f"{self._target.chat_model} streams to the end", self.stream),
        ]

    async def models(self) -> None:
        status, body = await self._ask("GET", "/v1/models")
        _expect(status == 200 and bool(json.loads(body)["data"]), status, body)

    def _store(self, store: str) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            status, body = await self._ask("GET", "/healthz/deps", key=None)
            _expect(status == 200 and json.loads(body)[store] is True, status, body)

        return check

    def _admin(self, path: str) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            status, body = await self._ask("GET", path)
            if status == 501:
                raise CheckSkipped("a gateway without a database has none")
            _expect(status == 200, status, body)

        return check

    def _no_key(self, path: str) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            status, body = await self._ask("GET", path, key=None)
            _expect(status == 401, status, body)

        return check

    async def member_key(self) -> None:
        """Make a key without rights, see it refused everywhere, and delete it whatever came of that."""
        status, body = await self._ask("POST", "/v1/keys", {"name": "smoke test", "expires_in": MEMBER_KEY_SECONDS})
        if status == 501:
            raise CheckSkipped("a gateway without a database has no keys")
        _expect(status == 201, status, body)
        made = json.loads(body)
        try:
            for path in ADMIN_ROUTES:
                status, body = await self._ask("GET", path, key=made["key"])
                _expect(status == 403, status, body)
        finally:
            status, body = await self._ask("DELETE", f"/v1/keys/{made['id']}")
        _expect(status == 200, status, body)

    async def embedding(self) -> None:
        request = {"model": self._target.embedding_model, "input": "hello"}
        status, body = await self._ask("POST", "/v1/embeddings", request)
        _expect(status == 200, status, body)
        length = len(json.loads(body)["data"][0]["embedding"])
        if length != self._target.embedding_length:
            raise CheckFailed(f"{length} numbers, not {self._target.embedding_length}")

    async def chat(self) -> None:
        status, body = await self._ask("POST", "/v1/chat/completions", self._question())
        _expect(status == 200, status, body)
        said = json.loads(body)["choices"][0]["message"]["content"]
        if said.strip() != EXACT:
            raise CheckFailed(f"it said {said[:100]!r}")

    async def stream(self) -> None:
        status, body = await self._ask("POST", "/v1/chat/completions", {**self._question(), "stream": True})
        _expect(status == 200 and body.rstrip().endswith(b"data: [DONE]"), status, body[-200:])

    def _question(self) -> dict[str, Any]:
        message = {"role": "user", "content": f"Return exactly the text: {EXACT}"}
        return {"model": self._target.chat_model, "messages": [message], "max_tokens": 10, "temperature": 0}

    async def _ask(self, method: str, path: str, body: object = None, *, key: str | None = "") -> tuple[int, bytes]:
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key or self._target.key}"
        data = json.dumps(body).encode() if body is not None else b""
        request = UpstreamRequest(
            method=method, url=self._target.url + path, headers=headers, body=data, timeouts=TIMEOUTS
        )
        call = self._upstream.call(request)
        head = await call.head()
        answer = b"".join([chunk async for chunk in call.chunks()])
        if BROKEN_DATABASE.encode() in answer:
            raise CheckFailed(f"the answer says {BROKEN_DATABASE!r}")
        return head.status, answer


def _expect(holds: bool, status: int, body: bytes) -> None:
    if not holds:
        raise CheckFailed(f"status {status}: {body[:200].decode('utf-8', 'replace')}")


def _print(checks: list[Check], failed: int) -> None:
    console = Console(highlight=False)
    styles = {"pass": "green", "fail": "bold red", "skip": "yellow"}
    for check in checks:
        line = f"[{styles[check.outcome]}]{check.outcome}[/]  {check.name}  [dim]{check.milliseconds:.0f} ms[/]"
        console.print(line + (f"\n      {check.detail}" if check.detail else ""), soft_wrap=True)
    skipped = sum(check.outcome == "skip" for check in checks)
    console.print(f"{len(checks) - failed - skipped} passed, {failed} failed, {skipped} skipped")
