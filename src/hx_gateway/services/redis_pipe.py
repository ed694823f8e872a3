"""Scripts on Redis over one connection: every caller's commands go out together and replies come back in order.

redis-py takes a connection, packs in Python and waits for a reader's lock for each command, which costs more than all
else of a call. Here a command costs its packing and one future.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import hiredis
import redis.asyncio
from redis._parsers.base import BaseParser
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.dsn import redis_dsn
from hx_gateway.services.failures import dependency_error

DISPLAY_NAME = "Redis"
TIMEOUT_SECONDS = 0.25
CONNECT_SECONDS = 2.0
MAX_WAITING = 10_000
# A loop that stood still finds its own timers before what has long been received: one more look after this.
GRACE_SECONDS = 0.05
# The same for who waits a moment only: so long before that is over.
LAST_LOOK_SECONDS = 0.002

Part = str | bytes | int | float

_NOT_YET = object()
# Its types say that it packs a tuple of one part.
_pack: Callable[[tuple[Part, ...]], bytes] = cast(Any, hiredis.pack_command)


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that the server knows it by."""

    name: str
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The server's choice of hash, not a safeguard.
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


class Prepared(NamedTuple):
    """A call of a script whose first arguments are packed: see :func:`prepare`."""

    script: Script
    parts: int
    packed: bytes


def prepare(script: Script, keys: Sequence[str | bytes], arguments: Sequence[Part]) -> Prepared:
    """Pack what is the same for many calls of ``script``, for :meth:`RedisPipe.run_prepared`."""
    parts = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
    _, _, packed = _pack(parts).partition(b"\r\n")
    return Prepared(script, len(parts), packed)


class RedisPipe:
    """One connection of one event loop, made with the first command and again after it was lost.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://`` with redis-py's options (:class:`DsnError` for others). Every
    error is a :class:`DependencyError`; whether the command was done is then unknown. One reply that is late by
    ``timeout`` seconds drops the connection and fails all that wait. A cancelled caller's command is done all the same,
    and its reply read by nobody.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        pool: Any = redis.asyncio.ConnectionPool.from_url(redis_dsn(url))
        self._target = pool.make_connection()
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._max_waiting = max_waiting
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link | Exception] | None = None
        self._entering = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many commands wait for a connection or their reply."""
        return self._entering + (0 if self._link is None else len(self._link.waiting))

    async def command(self, *parts: Part) -> Any:
        """Return the reply to one command: ``bytes``, ``int``, ``None`` or a list of them."""
        link = self._usable() or await self._connected()
        try:
            return await self._send(link, _pack(parts))
        except RedisError as error:
            raise dependency_error(DISPLAY_NAME, error) from error

    async def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[Part],
        *,
        within: float | None = None,
    ) -> Any:
        """Return what ``script`` returns; it is loaded where the server has lost it.

        A caller that gives up after ``within`` seconds, the same in all such calls, is the only one that fails; its
        script is run all the same. A time limit of its own would cost it more than the call.
        """
        return await self._run(script, _pack(("EVALSHA", script.sha, len(keys), *keys, *arguments)), within)

    async def run_prepared(self, prepared: Prepared, *arguments: Part) -> Any:
        """Return what a script returns for what is prepared and these further ``arguments``, one at least."""
        script, parts, packed = prepared
        _, _, rest = _pack(arguments).partition(b"\r\n")
        return await self._run(script, b"*%d\r\n%b%b" % (parts + len(arguments), packed, rest))

    async def close(self) -> None:
        """Drop the connection and fail all that wait; nothing is sent any more."""
        self._closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait({connecting})
        if self._link is not None:
            self._link.fail(ConnectionResetError("closed"))

    async def _run(self, script: Script, call: bytes, within: float | None = None) -> Any:
        link = self._usable() or await self._connected(within)
        try:
            return await self._send(link, call, within)
        except NoScriptError:
            return await self._load(link, script, call, within)
        except RedisError as error:
            raise dependency_error(DISPLAY_NAME, error) from error

    async def _load(self, link: _Link, script: Script, call: bytes, within: float | None) -> Any:
        """Load and run in one go. The load's own failure shows in the run's."""
        try:
            loading = self._send(link, _pack(("SCRIPT", "LOAD", script.text)))
            loading.add_done_callback(_retrieved)
            return await self._send(link, call, within)
        except RedisError as error:
            raise dependency_error(DISPLAY_NAME, error) from error

    def _usable(self) -> _Link | None:
        link = self._link
        return link if link is not None and not link.lost else None

    def _send(self, link: _Link, packed: bytes, within: float | None = None) -> asyncio.Future[Any]:
        if len(link.waiting) + self._entering >= self._max_waiting:
            raise DependencyError(DISPLAY_NAME, FailureKind.OVERLOADED)
        future = link.send(packed)
        if within is not None:
            link.give_up(future, within)
        return future

    async def _connected(self, within: float | None = None) -> _Link:
        """Return a connection once there is one, which all that want it wait for together."""
        if self._closed:
            raise DependencyError(DISPLAY_NAME, FailureKind.LOST)
        if self._entering >= self._max_waiting:
            raise DependencyError(DISPLAY_NAME, FailureKind.OVERLOADED)
        connecting = self._connecting
        if connecting is None:
            connecting = self._connecting = asyncio.create_task(self._connect())
        self._entering += 1
        try:
            done, _ = await asyncio.wait({connecting}, timeout=self._timeout if within is None else within)
        finally:
            self._entering -= 1
        if not done:
            raise DependencyError(DISPLAY_NAME, FailureKind.TIMEOUT)
        if connecting.cancelled():
            raise DependencyError(DISPLAY_NAME, FailureKind.LOST)
        outcome = connecting.result()
        if isinstance(outcome, Exception):
            raise dependency_error(DISPLAY_NAME, outcome) from outcome
        return outcome

    async def _connect(self) -> _Link | Exception:
        """Return a connection that is logged in, or why there is none: nobody may be left to catch it."""
        link = _Link(asyncio.get_running_loop(), self._timeout)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._open(link)
                await self._log_in(link)
        except (OSError, RedisError, DependencyError) as error:
            link.fail(error)
            return error
        except asyncio.CancelledError:
            link.fail(ConnectionResetError("closed"))
            raise
        finally:
            self._connecting = None
        self._link = link
        return link

    async def _open(self, link: _Link) -> None:
        loop, target = asyncio.get_running_loop(), self._target
        if isinstance(target, UnixDomainSocketConnection):
            await loop.create_unix_connection(lambda: link, target.path)
        elif isinstance(target, SSLConnection):
            context: Any = target.ssl_context
            await loop.create_connection(
                lambda: link, target.host, int(target.port), ssl=context.get(), server_hostname=target.host
            )
        else:
            await loop.create_connection(lambda: link, target.host, int(target.port))

    async def _log_in(self, link: _Link) -> None:
        target = self._target
        if target.password:
            await link.send(_pack(("AUTH", *filter(None, (target.username, target.password)))))
        if target.db:
            await link.send(_pack(("SELECT", target.db)))
        # Nothing else would show a server that lets in but does not answer, or lets nobody in without a password.
        await link.send(_pack(("PING",)))


class _Link(asyncio.Protocol):
    """A connection, and those who wait for its replies: the first of them gets the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.waiting: deque[asyncio.Future[Any]] = deque()
        # Of each that waits, when its reply is late.
        self._deadlines: deque[float] = deque()
        self.lost = False
        self._loop = loop
        self._timeout = timeout
        self._transport: asyncio.WriteTransport | None = None
        self._replies = hiredis.Reader(notEnoughData=_NOT_YET)
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Future[Any] | None = None
        # Whoever waits less long, and until when; the timer is for the first of them.
        self._impatient: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._giving_up: asyncio.TimerHandle | None = None

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a packed command, and return the future of its reply.

        What comes in one turn of the loop goes out together; while replies are on their way the next ones gather until
        they are there: a write to the socket costs as much as a command.
        """
        future = self._loop.create_future()
        if self.lost:
            future.set_exception(DependencyError(DISPLAY_NAME, FailureKind.LOST))
            return future
        if not self.waiting:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        deadline = self._loop.time() + self._timeout
        self.waiting.append(future)
        self._deadlines.append(deadline)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)
        return future

    def give_up(self, future: asyncio.Future[Any], seconds: float) -> None:
        """Let ``future`` fail after ``seconds``, and its reply be read by nobody; nobody else is any worse for it."""
        until = self._loop.time() + seconds
        self._impatient.append((until, future))
        if self._giving_up is None:
            self._giving_up = self._loop.call_at(until - LAST_LOOK_SECONDS, self._look_once_more)

    def fail(self, error: BaseException) -> None:
        """Drop the connection; all that wait fail for the same reason."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._timer = self._giving_up = None
        self._unsent.clear()
        self._impatient.clear()
        self._deadlines.clear()
        waiting, self.waiting = self.waiting, deque()
        for future in waiting:
            if not future.done():
                failure = dependency_error(DISPLAY_NAME, error)
                failure.__cause__ = error
                future.set_exception(failure)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; one that is made after all was given up is dropped."""
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.WriteTransport, transport)
        if self.lost:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all that wait."""
        self.fail(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Give replies to those who wait for them."""
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _NOT_YET:
                self._deliver(reply)
            if self._unsent and len(self._unsent) == len(self.waiting):
                self._flush()
        except hiredis.ProtocolError:
            self.fail(_not_understood())

    def _deliver(self, reply: Any) -> None:
        error = _error_of(str(reply)) if isinstance(reply, hiredis.ReplyError) else None
        if not self.waiting:
            # Such as a server that is full says before anything is asked.
            self.fail(error or _not_understood())
            return
        self._deadlines.popleft()
        future = self.waiting.popleft()
        if future.done():
            return
        if error is None:
            future.set_result(reply)
            return
        future.set_exception(error)
        if isinstance(error, ReadOnlyError):
            # A server that became a replica: the address may lead to another one by now.
            self.fail(error)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def _look_once_more(self) -> None:
        """Read what has been received, and then give up."""
        self._giving_up = self._loop.call_later(LAST_LOOK_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        impatient, now = self._impatient, self._loop.time()
        while impatient and (impatient[0][1].done() or impatient[0][0] <= now):
            _, future = impatient.popleft()
            if not future.done():
                future.set_exception(DependencyError(DISPLAY_NAME, FailureKind.TIMEOUT))
        if impatient:
            self._giving_up = self._loop.call_at(impatient[0][0] - LAST_LOOK_SECONDS, self._look_once_more)

    def _look(self) -> None:
        """See whether the oldest reply is late; all after it are younger."""
        self._timer = None
        if not self.waiting:
            return
        oldest, deadline = self.waiting[0], self._deadlines[0]
        if deadline > self._loop.time():
            self._timer = self._loop.call_at(deadline, self._look)
        elif self._late is not oldest:
            self._late = oldest
            self._timer = self._loop.call_later(GRACE_SECONDS, self._look)
        else:
            self.fail(TimeoutError())


def _not_understood() -> DependencyError:
    return DependencyError(DISPLAY_NAME, FailureKind.PROTOCOL)


def _error_of(text: str) -> Exception:
    """Return redis-py's class for an error reply, which is what our table of failures knows."""
    parser: Any = BaseParser
    error: Exception = parser.parse_error(text)
    return error


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Look at a failure, so that the loop does not report it as one that nobody saw."""
    if not future.cancelled():
        future.exception()
