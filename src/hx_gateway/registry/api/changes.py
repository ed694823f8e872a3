"""The routes of changes: a stream that goes on where a client left it, and a long poll."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from random import random
from typing import Any, NamedTuple

from hx_gateway.errors import InvalidRequest, Unavailable
from hx_gateway.http.query_parameters import choice_parameter, read_parameters
from hx_gateway.pipeline.context import Context, Reply, StreamedBody
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import actor_of, encoded
from hx_gateway.registry.api.durations import duration
from hx_gateway.registry.feed.changes import SOURCE, SPEC_VERSION, Change, ChangeFilter, ChangeType
from hx_gateway.registry.feed.follow import AheadOfUs, ChangeFeed, Follower
from hx_gateway.registry.transactions import tenant_of

KEEP_ALIVE_SECONDS = 15.0
# A client comes again by itself; its key and its rights are looked at anew then.
STREAM_SECONDS = 300.0
RETRY_MS = 1000
AWAY_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0
DEFAULT_LIMIT = 100
MAX_LIMIT = 500
MAX_VALUES = 50
FILTERS = ("types", "names", "tags", "required_only")
_REFUSALS = (400, 401, 403, 404, 414, 431, 503)
_DIGITS = re.compile(r"[0-9]{1,18}")
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class _Asked(NamedTuple):
    tenant_id: str
    since: int | None
    wanted: ChangeFilter
    parameters: Mapping[str, str]


class ChangeRoutes:
    """Answers from ``feed``. ``keep_alive`` and ``stream_seconds`` are there for tests."""

    def __init__(
        self,
        feed: ChangeFeed,
        *,
        keep_alive: float = KEEP_ALIVE_SECONDS,
        stream_seconds: float = STREAM_SECONDS,
    ) -> None:
        self._feed = feed
        self._keep_alive = keep_alive
        self._stream_seconds = stream_seconds

    async def events(self, ctx: Context) -> Reply:
        """Answer with server-sent events: what came after ``Last-Event-ID`` or ``since``, and what comes from now on.

        Without either, from now on. A number that there is not yet is another history's: the first event is a
        ``registry.reset`` then.
        """
        asked = _asked(ctx, ("since",))
        last = ctx.header(b"last-event-id")
        since = _number(last.decode("latin-1"), "last-event-id") if last else asked.since
        if ctx.method == "HEAD":
            return Reply(200, list(_STREAM_HEADERS))
        follower = await self._feed.follow(asked.tenant_id, since)
        return Reply(200, list(_STREAM_HEADERS), StreamedBody(self._stream(follower, asked.wanted), follower.close))

    async def changes(self, ctx: Context) -> Reply:
        """Answer with the changes after ``since``; while there are none, wait for some for up to ``wait``."""
        asked = _asked(ctx, ("since", "wait", "limit"))
        limit, wait = _limit(asked.parameters), _wait(asked.parameters)
        with closing(await self._feed.follow(asked.tenant_id, asked.since)) as follower:
            found, more, reset = await self._poll(follower, asked.wanted, limit, wait)
            body = {
                "items": [change.event() for change in found],
                "next_since": follower.position,
                "has_more": more,
                "reset": reset,
            }
            index = (b"x-registry-index", b"%d" % follower.position)
            return Reply(200, [(b"content-type", b"application/json"), index], encoded(body))

    async def _poll(
        self, follower: Follower, wanted: ChangeFilter, limit: int, seconds: float
    ) -> tuple[list[Change], bool, bool]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while True:
            try:
                read = await follower.read(limit)
            except AheadOfUs as ahead:
                follower.position = ahead.newest
                return [], False, True
            found = [change for change in read if wanted.passes(change)]
            left = ends - loop.time()
            more = len(read) == limit
            if found or left <= 0 or self._feed.stopping:
                return found, more, False
            if not more:
                await follower.wait(left)

    async def _stream(self, follower: Follower, wanted: ChangeFilter) -> AsyncGenerator[bytes]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._stream_seconds
        yield b"retry: %d\nid: %d\n\n" % (RETRY_MS, follower.position)
        told, told_at = follower.position, loop.time()
        while loop.time() < ends and not self._feed.stopping:
            said = b""
            try:
                read = await follower.read()
                said = b"".join(_event(change) for change in read if wanted.passes(change))
                waiting = not read
            except AheadOfUs as ahead:
                follower.position = told = ahead.newest
                said, waiting = _reset(ahead.newest), False
            except Unavailable:
                # The database is away: those who follow stay, and get what they missed once it is back.
                waiting = False
                await asyncio.sleep(AWAY_SECONDS)
            if not said and loop.time() - told_at >= self._keep_alive:
                # An event without data is none, and moves a client's place on over what it does not want.
                said = b": alive\n\n" if told == follower.position else b"id: %d\n\n" % follower.position
            if said:
                yield said
                told, told_at = follower.position, loop.time()
            elif waiting:
                await follower.wait(min(told_at + self._keep_alive, ends) - loop.time())


def stream_operation() -> dict[str, Any]:
    """Return what ``/openapi.json`` says of the stream."""
    header = {"name": "last-event-id", "in": "header", "schema": {"type": "integer", "minimum": 0}}
    return _operation(
        "Changes as they happen, as server-sent events",
        [{**header, "description": "Where a client goes on; before `since`."}],
        {"text/event-stream": {"schema": {"type": "string"}}},
    )


def poll_operation() -> dict[str, Any]:
    """Return what ``/openapi.json`` says of the long poll."""
    more = [
        _parameter("wait", {"type": "string", "pattern": "^[0-9]{1,2}s$"}, "How long to wait for one, at most 60s."),
        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, "How many at most."),
    ]
    return _operation("Changes after a number, waiting for one", more, {"application/json": {"schema": _POLLED}})


def _operation(summary: str, parameters: list[dict[str, Any]], content: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "tags": ["registry"],
        "parameters": [
            _parameter("since", {"type": "integer", "minimum": 0}, "What comes after this number."),
            _parameter("types", {"type": "string"}, f"Commas between: {', '.join(ChangeType)}."),
            _parameter("names", {"type": "string"}, "Names of services, commas between."),
            _parameter("tags", {"type": "string"}, "Tags of which a service has any, commas between."),
            _parameter("required_only", {"type": "string", "enum": ["true", "false"]}, "Of required services only."),
            _parameter("tenant_id", {"type": "string"}, "Another tenant than one's own: platform admins only."),
            *parameters,
        ],
        "responses": {
            "200": {"description": "OK", "content": content},
            **{str(status): operations.RESPONSES[status] for status in _REFUSALS},
        },
    }


_POLLED = {
    "type": "object",
    "required": ["items", "next_since", "has_more", "reset"],
    "properties": {
        "items": {"type": "array", "items": {"type": "object"}},
        "next_since": {"type": "integer"},
        "has_more": {"type": "boolean"},
        "reset": {"type": "boolean"},
    },
}


def _parameter(name: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": dict(schema), "description": description}


def _asked(ctx: Context, known: tuple[str, ...]) -> _Asked:
    parameters = read_parameters(ctx, (*known, *FILTERS, "tenant_id"))
    since = parameters.get("since")
    return _Asked(
        tenant_of(actor_of(ctx), parameters.get("tenant_id")),
        None if since is None else _number(since, "since"),
        _filter(parameters),
        parameters,
    )


def _filter(parameters: Mapping[str, str]) -> ChangeFilter:
    types = _several(parameters, "types")
    unknown = sorted(types - {*ChangeType})
    if unknown:
        raise InvalidRequest(f"types: {unknown[0][:64]!r} is none; there are {', '.join(ChangeType)}.", param="types")
    return ChangeFilter(
        types=frozenset(map(ChangeType, types)),
        names=frozenset(name.lower() for name in _several(parameters, "names")),
        tags=_several(parameters, "tags"),
        required_only=choice_parameter(parameters, "required_only", ("true", "false")) == "true",
    )


def _several(parameters: Mapping[str, str], name: str) -> frozenset[str]:
    values = frozenset(part for part in parameters.get(name, "").split(",") if part)
    if name in parameters and not 0 < len(values) <= MAX_VALUES:
        raise InvalidRequest(f"{name}: must be 1 to {MAX_VALUES} values, commas between.", param=name)
    return values


def _number(text: str, name: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise InvalidRequest(f"{name}: must be the number of a change, not {text[:60]!r}.", param=name)
    return int(text)


def _limit(parameters: Mapping[str, str]) -> int:
    text = parameters.get("limit", str(DEFAULT_LIMIT))
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidRequest(f"limit: must be a whole number from 1 to {MAX_LIMIT}, not {text[:60]!r}.", param="limit")
    return int(text)


def _wait(parameters: Mapping[str, str]) -> float:
    """Return seconds, a little more than asked for: many that were cut off together do not come together again."""
    try:
        seconds = duration(parameters.get("wait", "0s")).total_seconds()
    except ValueError as error:
        raise InvalidRequest(f"wait: {error}.", param="wait") from error
    if seconds > MAX_WAIT_SECONDS:
        raise InvalidRequest(f"wait: must be at most {MAX_WAIT_SECONDS:.0f}s.", param="wait")
    return seconds + random() * seconds / 16  # noqa: S311 - spreads, hides nothing


def _event(change: Change) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (change.seq, change.type.encode(), encoded(change.event()))


def _reset(newest: int) -> bytes:
    told = {"specversion": SPEC_VERSION, "id": str(newest), "seq": newest, "type": ChangeType.RESET, "source": SOURCE}
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (newest, ChangeType.RESET.encode(), encoded(told))
