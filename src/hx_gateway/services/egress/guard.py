"""The guard: checks a URL once, and connects to nothing but what it checked."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from hx_gateway.services.egress.addresses import IPAddress
from hx_gateway.services.egress.caps import Caps
from hx_gateway.services.egress.errors import EgressDenied, EgressReason
from hx_gateway.services.egress.http import EgressRequest, EgressResponse, Method, exchange, open_session
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.resolver import Resolver, SystemResolver
from hx_gateway.services.egress.streams import EgressStream, stream_over
from hx_gateway.services.egress.target import CheckedSocket, CheckedTarget, SocketFactory, dial, dial_socket, new_socket
from hx_gateway.services.egress.url import HTTP_SCHEMES, ParsedUrl, parse_socket_path, parse_url
from hx_gateway.services.egress.websocket import EgressWebSocket, upgrade

_ADDRESS_RULE = (
    "its host does not lead to public addresses alone; check the name, or ask an operator to allow its network"
)


class EgressGuard:
    """The only way out for URLs that users give. Fail-closed: what cannot be checked is not dialled.

    A name is looked up once, in :meth:`check`; every address must be allowed, and only these are dialled, so that an
    answer of DNS that changes in between reaches nobody. TLS still verifies the name, with ``ssl_context`` or the
    system's authorities. ``close`` closes ``resolver`` too.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        socket_factory: SocketFactory = new_socket,
    ) -> None:
        self._policy = policy
        self._resolver = resolver if resolver is not None else SystemResolver()
        self._ssl_context = ssl_context if ssl_context is not None else ssl.create_default_context()
        self._socket_factory = socket_factory

    def close(self) -> None:
        """Let go of the resolver; exchanges that run end by themselves."""
        self._resolver.close()

    def reading(self, max_bytes: int) -> EgressGuard:
        """Return a guard with all the same rules that reads so much of one answer. Closing either closes both."""
        return EgressGuard(
            replace(self._policy, max_bytes=max_bytes),
            resolver=self._resolver,
            ssl_context=self._ssl_context,
            socket_factory=self._socket_factory,
        )

    async def check(self, url: str, *, schemes: frozenset[str] = HTTP_SCHEMES, field: str = "url") -> CheckedTarget:
        """Return where ``url`` leads, having asked DNS at most once. Raises ``EgressDenied``.

        ``schemes`` are those that make sense for ``field``; the policy must allow the one used too. Nothing is
        connected to. Check when a URL is saved, and again before each use.
        """
        parsed = parse_url(url, schemes=schemes & self._policy.schemes, field=field)
        if not self._policy.permits_port(parsed.port):
            raise EgressDenied(EgressReason.PORT, field, "its port is not allowed here; ask an operator to allow it")
        addresses = await self._addresses(parsed, field)
        if not all(self._policy.permits(parsed.host, address) for address in addresses):
            raise EgressDenied(EgressReason.ADDRESS, field, _ADDRESS_RULE)
        return CheckedTarget(
            field_name=field,
            scheme=parsed.scheme,
            host=parsed.host,
            port=parsed.port,
            addresses=tuple(addresses),
            url=parsed.text,
        )

    async def check_socket(self, url: str, *, field: str = "url") -> CheckedSocket:
        """Return the Unix socket that ``unix:///path`` is, links followed. Raises ``EgressDenied``."""
        path = Path(parse_socket_path(url, field=field))
        found = await asyncio.to_thread(_allowed_socket, path, self._policy.socket_directories)
        if found is None:
            raise EgressDenied(
                EgressReason.SOCKET_PATH, field, "it is no socket in a directory that is allowed here; ask an operator"
            )
        return CheckedSocket(field, str(found))

    async def request(
        self,
        target: CheckedTarget,
        method: Method = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        want_body: bool = True,
        enough: Callable[[bytearray], bool] | None = None,
    ) -> EgressResponse:
        """Send one request over a connection of its own, and return the answer within the policy's caps.

        Without ``want_body`` the answer ends with its head, and the rest of it is cut off; so is what comes after
        ``enough`` is true of the body so far, for answers that are streams without an end. Raises ``EgressFailed``, and
        ``EgressDenied`` for a redirect or a header that is not the caller's to set.
        """
        caps = Caps(self._policy, target.field_name)
        asked = EgressRequest(method=method, headers=headers or {}, body=body, want_body=want_body, enough=enough)
        async with self._session(target) as session:
            return await exchange(session, target, request=asked, caps=caps)

    @asynccontextmanager
    async def open_websocket(
        self, target: CheckedTarget, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[EgressWebSocket]:
        """Give a WebSocket over a connection of its own; raises as :meth:`request` does.

        A server that does not upgrade is an ``EgressFailed`` with its ``status``.
        """
        caps = Caps(self._policy, target.field_name)
        async with (
            self._session(target) as session,
            upgrade(session, target, headers=headers or {}, caps=caps) as websocket,
        ):
            yield websocket

    @asynccontextmanager
    async def open_connection(self, target: CheckedTarget | CheckedSocket) -> AsyncIterator[EgressStream]:
        """Give a plain connection. Raises ``EgressFailed``."""
        caps = Caps(self._policy, target.field_name)
        if isinstance(target, CheckedTarget):
            peer = await dial(target, self._socket_factory, caps=caps, seconds=self._policy.connect_seconds)
        else:
            peer = await dial_socket(target, caps=caps, seconds=self._policy.connect_seconds)
        async with stream_over(peer, caps) as stream:
            yield stream

    def _session(self, target: CheckedTarget) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        return open_session(target, self._policy, factory=self._socket_factory, context=self._ssl_context)

    async def _addresses(self, parsed: ParsedUrl, field: str) -> Sequence[IPAddress]:
        if parsed.literal is not None:
            return (parsed.literal,)
        try:
            async with asyncio.timeout(self._policy.connect_seconds):
                addresses = await self._resolver.resolve(parsed.host)
        except OSError as error:
            raise EgressDenied(EgressReason.DNS, field, _ADDRESS_RULE) from error
        if not addresses:
            raise EgressDenied(EgressReason.DNS, field, _ADDRESS_RULE)
        return addresses


def _allowed_socket(path: Path, directories: Sequence[Path]) -> Path | None:
    try:
        found = path.resolve(strict=True)
        inside = any(found.is_relative_to(directory.resolve()) for directory in directories)
        return found if inside and stat.S_ISSOCK(found.lstat().st_mode) else None
    except OSError:
        # No such file, a loop of links, or no right to look: all the same to whoever asks.
        return None
