"""HTTP to a checked target, on an aiohttp session that can reach nothing else and is kept for nothing else."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from hx_gateway.services.egress.caps import Caps
from hx_gateway.services.egress.errors import EgressDenied, EgressReason
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.target import CheckedTarget, SocketFactory

Method = Literal["GET", "HEAD", "POST", "DELETE"]
MAX_LINE_BYTES = 8 * 1024
MAX_FIELDS = 64
READ_BUFFER_BYTES = 64 * 1024
# RFC 9110, 15.4: those that send a client elsewhere.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~]*")
# Whose server is asked and where a message ends is not the caller's to say.
_RESERVED_FIELDS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRequest:
    """What is sent; without ``want_body`` the answer ends with its head, and else where ``enough`` says so of it."""

    method: Method
    headers: Mapping[str, str]
    body: bytes
    want_body: bool
    enough: Callable[[bytearray], bool] | None = None


@dataclass(frozen=True, slots=True)
class EgressResponse:
    """An answer. Header names are lower-case, in the order and repetition they came; ``body`` is not decoded."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


async def exchange(
    session: aiohttp.ClientSession, target: CheckedTarget, *, request: EgressRequest, caps: Caps
) -> EgressResponse:
    """Send one request and return its answer. Raises ``EgressDenied`` for a redirect, and ``EgressFailed``."""
    asking = session.request(
        request.method,
        URL(target.url, encoded=True),
        headers={"accept-encoding": "identity", **checked_headers(request.headers, target.field_name)},
        # As a file: aiohttp writes bytes in one piece, however many.
        data=BytesIO(request.body) if request.body else None,
        allow_redirects=False,
    )
    # A head in drips ends by the time of the whole: aiohttp counts each drip as a read.
    async with caps.step(), asking as response:
        body = bytearray()
        if request.want_body:
            async for piece in response.content.iter_any():
                caps.took(piece)
                body += piece
                if request.enough is not None and request.enough(body):
                    break
        fields = tuple((name.lower(), value) for name, value in response.headers.items())
        response.close()  # with whatever was not read
        return EgressResponse(response.status, fields, bytes(body))


def checked_headers(headers: Mapping[str, str], field: str) -> dict[str, str]:
    """Return ``headers`` with lower-case names. Raises ``EgressDenied`` for one that would not arrive as one field."""
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None or name.lower() in _RESERVED_FIELDS or _VALUE.fullmatch(value) is None:
            raise EgressDenied(
                EgressReason.HEADER,
                field,
                f"a header for it is not allowed: names are tokens and none of {', '.join(sorted(_RESERVED_FIELDS))}, "
                "values are printable ASCII",
            )
    return {name.lower(): value for name, value in headers.items()}


@asynccontextmanager
async def open_session(
    target: CheckedTarget, policy: EgressPolicy, *, factory: SocketFactory, context: ssl.SSLContext
) -> AsyncIterator[aiohttp.ClientSession]:
    """Give a session for one exchange with ``target``.

    It follows no redirect, decodes nothing, keeps no cookie and reads no proxy or password from the environment.
    """
    connector = aiohttp.TCPConnector(
        resolver=_Pinned(target),
        use_dns_cache=False,
        socket_factory=target.through(factory),
        ssl=context,
        force_close=True,
        limit=1,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(
            total=None,
            connect=policy.connect_seconds,
            sock_connect=policy.connect_seconds,
            sock_read=policy.read_seconds,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("user-agent", "accept", "content-type"),
        headers={"user-agent": "hx-gateway"},
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_FIELDS,
        middlewares=(_Refusing(target.field_name),),
    )
    async with session:
        yield session


class _Pinned(AbstractResolver):
    """Answers for the target's name with the addresses that were checked, and for no other name."""

    def __init__(self, target: CheckedTarget) -> None:
        self._target = target

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the checked addresses. Raises ``OSError`` for any other host or port."""
        if (host, port) != (self._target.host, self._target.port):
            raise PermissionError("this name was not checked")
        return [
            ResolveResult(
                hostname=host, host=info[4][0], port=port, family=info[0], proto=info[2], flags=socket.AI_NUMERICHOST
            )
            for info in self._target.address_infos()
        ]

    async def close(self) -> None:
        """Hold nothing."""


class _Refusing:
    """Stops at a redirect: aiohttp follows them by itself where it opens a WebSocket."""

    def __init__(self, field: str) -> None:
        self._field = field

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        if response.status in _REDIRECTS:
            response.close()
            raise EgressDenied(
                EgressReason.REDIRECT,
                self._field,
                "its server redirects, which is not followed: give the URL that it leads to",
            )
        return response
