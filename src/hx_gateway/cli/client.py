"""A client of a running gateway for the commands that talk to one."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import typer

from hx_gateway.cli.start import fail
from hx_gateway.services.upstream.base import Timeouts, UpstreamError, UpstreamHead, UpstreamRefused, UpstreamRequest
from hx_gateway.services.upstream.http_client import HttpCall, HttpUpstream
from hx_gateway.setting_sources import default_data_dir

DEFAULT_URL = "http://127.0.0.1:4010"
EXIT_FAILED = 1
TIMEOUTS = Timeouts(connect=3, head=60, idle=60, total=24 * 3600)

UrlOption = Annotated[str, typer.Option("--url", help="The gateway's address.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="A key (HX_ADMIN_KEY, or the admin key of the data directory).")
]
Parameters = Mapping[str, str | int | None]
T = TypeVar("T")


class Refused(Exception):
    """An answer that says no; the text is the gateway's own, and so is ``status``, 0 where it is not known."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class GatewayClient:
    """One gateway, asked with one key. Raises :class:`Refused`, and ``UpstreamError`` where nobody answers."""

    def __init__(self, url: str, key: str, upstream: HttpUpstream) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._upstream = upstream

    async def ask(self, method: str, path: str, parameters: Parameters | None = None, body: object = None) -> Any:
        """Return the answer's JSON, whatever of 2xx its status is."""
        head, call = await self._call(method, path, parameters, body)
        answer = b"".join([chunk async for chunk in call.chunks()])
        if head.status >= 300:
            raise Refused(_reason(head.status, answer), head.status)
        return json.loads(answer)

    async def stream(
        self, path: str, parameters: Parameters | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield an answer as it comes; the names of ``headers`` are lower-case."""
        head, call = await self._call("GET", path, parameters, None, headers)
        if head.status >= 300:
            raise Refused(_reason(head.status, b"".join([chunk async for chunk in call.chunks()])), head.status)
        async for chunk in call.chunks():
            yield chunk

    async def _call(
        self,
        method: str,
        path: str,
        parameters: Parameters | None,
        body: object,
        more_headers: Mapping[str, str] | None = None,
    ) -> tuple[UpstreamHead, HttpCall]:
        chosen = {name: value for name, value in (parameters or {}).items() if value is not None}
        query = f"?{urlencode(chosen)}" if chosen else ""
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json", **(more_headers or {})}
        data = b"" if body is None else json.dumps(body).encode()
        request = UpstreamRequest(
            method=method, url=f"{self._url}{path}{query}", headers=headers, body=data, timeouts=TIMEOUTS
        )
        call = self._upstream.call(request)
        return await call.head(), call


def run_with(url: str, key: str | None, work: Callable[[GatewayClient], Awaitable[T]]) -> T:
    """Return what ``work`` returns. Prints what is wrong, and leaves, where the gateway refuses or is not there."""
    found = key or os.environ.get("HX_ADMIN_KEY") or kept_key()
    if found is None:
        fail("no key: give --key, set HX_ADMIN_KEY, or set HX_DATA_DIR to the gateway's data directory.")

    async def run() -> T:
        upstream = HttpUpstream()
        try:
            return await work(GatewayClient(url, found, upstream))
        finally:
            await upstream.close()

    try:
        return asyncio.run(run())
    except Refused as refused:
        fail(str(refused), code=EXIT_FAILED)
    except UpstreamRefused:
        fail(f"nothing listens at {url}: start the gateway, or give its address with --url.", code=EXIT_FAILED)
    except UpstreamError as error:
        fail(f"{url}: {type(error).__name__}: {error}", code=EXIT_FAILED)


def kept_key() -> str | None:
    """Return the admin key of the data directory: that of ``HX_DATA_DIR``, else of where one usually is."""
    given = os.environ.get("HX_DATA_DIR")
    folders = [Path(given)] if given else [Path(".data"), default_data_dir(os.environ)]
    for folder in folders:
        try:
            return (folder / "admin.key").read_text(encoding="ascii").strip()
        except OSError:
            continue
    return None


def _reason(status: int, answer: bytes) -> str:
    try:
        said = json.loads(answer)
        detail = said.get("detail") or said["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = answer[:200].decode("utf-8", "replace")
    return f"{status}: {detail}"
