"""Asks a server of MCP over lines of JSON, as STDIO has them: over a process' pipes, TCP, or a Unix socket."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from hx_gateway.registry.probing.mcp_messages import (
    DISCOVER_ID,
    Answer,
    answer_in,
    discover,
    initialize,
    initialized,
    list_tools,
)
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, Unanswered, failed, healthy
from hx_gateway.registry.probing.tool_pages import MAX_LIST_BYTES, all_pages
from hx_gateway.registry.tool_definitions import ToolList

MAX_BYTES = 256 * 1024

Send = Callable[[bytes], Awaitable[None]]
Read = Callable[[], Awaitable[bytes]]


class Silent(Exception):
    """The other end closed without an answer. ``spoke``: it said something that was none."""

    def __init__(self, *, spoke: bool) -> None:
        super().__init__("closed without an answer")
        self.spoke = spoke


async def ask(send: Send, read: Read, *, seconds: float) -> ProbeOutcome:
    """Ask for ``server/discover``, and for ``initialize`` where that is refused or not answered in half the time.

    ``read`` returns what comes next, nothing at the end. Lines that are no answer are passed over: servers log. Raises
    :class:`Silent`, ``TimeoutError`` where nothing answers in ``seconds``, and what ``send`` and ``read`` do.
    """
    async with asyncio.timeout(seconds):
        greeting = await _greet(send, _Answers(read), seconds)
    return greeting.outcome()


async def ask_tools(send: Send, read: Read, *, seconds: float) -> ToolList:
    """Ask a server for its tools, all pages of them in ``seconds``; otherwise as :func:`ask`.

    Raises :class:`Unanswered` too, where it is no server of MCP or does not tell them.
    """
    lines = _Answers(read, most=MAX_LIST_BYTES)
    async with asyncio.timeout(seconds):
        greeting = await _greet(send, lines, seconds)
        if not greeting.answer.serves:
            raise Unanswered(greeting.outcome())
        if greeting.legacy:
            await send(initialized() + b"\n")

        async def page(number: int, cursor: str | None) -> Answer:
            await send(list_tools(number, cursor, legacy=greeting.legacy) + b"\n")
            while True:
                answer = await lines.next()
                # A late answer to the greeting is none to this.
                if answer.number == number:
                    return answer

        return await all_pages(page)


@dataclass(frozen=True, slots=True)
class _Greeting:
    """What a server answered first, to which of the two requests, and how long that took."""

    answer: Answer
    legacy: bool
    took_seconds: float

    def outcome(self) -> ProbeOutcome:
        if self.answer.serves:
            return replace(healthy(Level.READY), response_time_ms=self.took_seconds * 1000)
        code = self.answer.error_code
        told = "a result of another kind" if code is None else f"the error {code}"
        return failed(FailureClass.PROTOCOL, f"answered initialize with {told}", level=Level.REACHABLE)


async def _greet(send: Send, lines: _Answers, seconds: float) -> _Greeting:
    began = time.monotonic()
    await send(discover() + b"\n")
    answer = await _within(lines, seconds / 2)
    if answer is not None and answer.serves:
        return _Greeting(answer, False, time.monotonic() - began)
    began = time.monotonic()
    await send(initialize() + b"\n")
    answer = await lines.next()
    # A late refusal of the first request.
    if not answer.serves and answer.error_code is not None:
        answer = await _within(lines, seconds / 2) or answer
    return _Greeting(answer, answer.number != DISCOVER_ID, time.monotonic() - began)


class _Answers:
    """The answers among the lines that come. What was read of a line stays when nobody waits for it any more."""

    def __init__(self, read: Read, *, most: int = MAX_BYTES) -> None:
        self._read = read
        self._most = most
        self._lines = deque[bytes]()
        self._rest = bytearray()
        self._total = 0

    async def next(self) -> Answer:
        """Return the next answer. Raises :class:`Silent` at the end, and after ``most`` bytes."""
        while True:
            while self._lines:
                line = self._lines.popleft()
                answer = answer_in(line) if line else None
                if answer is not None:
                    return answer
            piece = await self._read()
            self._total += len(piece)
            if not piece or self._total > self._most:
                raise Silent(spoke=self._total > 0)
            self._rest += piece
            # Whole lines only: who sends byte by byte has none of it looked through again and again.
            if b"\n" in piece:
                *lines, rest = bytes(self._rest).split(b"\n")
                self._lines.extend(lines)
                self._rest = bytearray(rest)


async def _within(answers: _Answers, seconds: float) -> Answer | None:
    try:
        async with asyncio.timeout(seconds):
            return await answers.next()
    except TimeoutError:
        return None
