"""Another registry as a source: its servers, read page by page through the egress guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from hx_gateway.access.errors import InvalidField
from hx_gateway.kit.json_object import JSONObjectError, decode_object
from hx_gateway.registry.official.mapping import moment
from hx_gateway.services.egress.errors import EgressDenied, EgressError
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.http import EgressResponse

PAGE_SERVERS = 100
# Of one page: a hundred documents as large as they may be.
PAGE_BYTES = 8 * 1024 * 1024
MAX_CURSOR_CHARS = 2048
_PREFIXES = ("/v0.1", "/v0")
_LIST = "/servers"
_USUAL_PORTS = {"http": ":80", "https": ":443"}
_HEADERS = {"accept": "application/json, application/problem+json"}


class SourceRefused(InvalidField):
    """A source that is no address of a registry, or that users' URLs may not lead to."""

    code = "source_refused"


class SourceFailed(InvalidField):
    """A source that cannot be reached, or that answers otherwise than a registry does."""

    code = "source_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is read of a source in all, over all its pages: of servers, as many as so many pages have."""

    pages: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Root:
    """Where servers are listed. ``others``: where else, if there is nothing."""

    url: str
    others: tuple[str, ...] = ()


class RegistrySource:
    """Registries that speak the official API, without any credential. ``guard`` reads answers of ``PAGE_BYTES``.

    Raises :class:`SourceRefused` and :class:`SourceFailed`, whose ``param`` is ``source``; no redirect is followed.
    """

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def pages(
        self, address: str, bounds: Bounds, *, updated_since: datetime | None = None, latest: bool = False
    ) -> AsyncIterator[list[Any]]:
        """Yield the members of ``servers``, whatever they are, page by page, within ``bounds``.

        ``address`` is that of a registry, of one of its prefixes or of its list. ``latest`` asks for latest versions
        only; a registry need not listen. Ends where a cursor comes back that was there before.
        """
        root = root_of(address)
        asked = {"limit": str(PAGE_SERVERS), **({"version": "latest"} if latest else {})}
        if updated_since is not None:
            asked["updated_since"] = moment(updated_since)
        ends, left, seen = time.monotonic() + bounds.seconds, bounds.bytes, set[str]()
        servers_left = bounds.pages * PAGE_SERVERS
        for _ in range(bounds.pages):
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    response = await self._get(f"{root.url}?{urlencode(asked)}")
                    while response.status == 404 and root.others and not seen:
                        root = _Root(root.others[0], root.others[1:])
                        response = await self._get(f"{root.url}?{urlencode(asked)}")
            except TimeoutError:
                message = f"source: reading it took longer than {bounds.seconds:g} s."
                raise SourceFailed(message, param="source") from None
            left -= len(response.body)
            if left < 0:
                raise SourceFailed(f"source: it has more than {bounds.bytes:,} bytes.", param="source")
            # Megabytes of JSON are read beside the event loop.
            page = await asyncio.to_thread(_object, response)
            servers = _servers(page)
            servers_left -= len(servers)
            if servers_left < 0:
                raise SourceFailed(
                    f"source: it has more than {bounds.pages * PAGE_SERVERS:,} servers and versions.", param="source"
                )
            yield servers
            cursor = _cursor(page)
            if cursor is None or cursor in seen:
                return
            seen.add(cursor)
            asked["cursor"] = cursor
        raise SourceFailed(f"source: it has more than {bounds.pages:,} pages.", param="source")

    async def latest(self, address: str, name: str) -> Mapping[str, Any] | None:
        """Return the latest version of a server, ``None`` where there is none that is not deleted."""
        root = root_of(address)
        for url in (root.url, *root.others):
            response = await self._get(f"{url}/{quote(name, safe='')}/versions/latest")
            if response.status != 404:
                return await asyncio.to_thread(_object, response)
        return None

    async def _get(self, url: str) -> EgressResponse:
        try:
            return await self._guard.request(await self._guard.check(url, field="source"), headers=_HEADERS)
        except EgressDenied as error:
            raise SourceRefused(f"{error.message}.", param="source") from error
        except EgressError as error:
            raise SourceFailed(f"{error.message}.", param="source") from error


def root_of(address: str) -> _Root:
    """Return where a registry lists its servers. Raises :class:`SourceRefused`."""
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        whole = False
    if not whole or "@" in parts.netloc or parts.query or parts.fragment:
        message = "source: must be the http(s) address of a registry, without a user, a query or a fragment."
        raise SourceRefused(message, param="source")
    path = parts.path.rstrip("/")
    if path.endswith(_LIST):
        paths: tuple[str, ...] = (path,)
    elif path.endswith(_PREFIXES):
        paths = (f"{path}{_LIST}",)
    else:
        paths = tuple(f"{path}{prefix}{_LIST}" for prefix in _PREFIXES)
    first, *others = [parts._replace(path=each).geturl() for each in paths]
    return _Root(first, tuple(others))


def one_spelling(address: str) -> str:
    """Return a registry's address as all spellings of it are kept: the same place is asked. Raises as ``root_of``.

    The host is in lower case, without the scheme's own port; a prefix stands for its list, without a slash behind it.
    """
    root_of(address)
    parts = urlsplit(address)
    host = parts.netloc.lower().removesuffix(":").removesuffix(_USUAL_PORTS[parts.scheme])
    path = parts.path.rstrip("/")
    if path.removesuffix(_LIST).endswith(_PREFIXES):
        path = path.removesuffix(_LIST)
    return parts._replace(netloc=host, path=path).geturl()


def without_prefix(address: str) -> str:
    """Return a registry's address in one spelling, without the prefix that it is asked below."""
    return next((address.removesuffix(prefix) for prefix in _PREFIXES if address.endswith(prefix)), address)


def _object(response: EgressResponse) -> dict[str, Any]:
    if response.status != 200:
        raise SourceFailed(f"source: it answered with status {response.status}, not 200.", param="source")
    try:
        decode_object(response.body)
    except JSONObjectError as error:
        raise SourceFailed(
            f"source: it answered with what is no JSON object ({error.code}).", param="source"
        ) from error
    return cast(dict[str, Any], msgspec.json.decode(response.body))


def _servers(page: Mapping[str, Any]) -> list[Any]:
    servers = page.get("servers")
    # Some say so where there are none.
    if servers is None and "servers" in page:
        return []
    if not isinstance(servers, list):
        raise SourceFailed("source: its answer has no list of servers; give a registry's address.", param="source")
    return servers


def _cursor(page: Mapping[str, Any]) -> str | None:
    """Return the cursor of the next page. It is opaque, and absent, null or empty on the last page."""
    metadata = page.get("metadata")
    cursor = metadata.get("nextCursor") if isinstance(metadata, dict) else None
    if cursor is None or cursor == "":
        return None
    if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR_CHARS:
        raise SourceFailed("source: its cursor is no text of a usual length.", param="source")
    return cursor
