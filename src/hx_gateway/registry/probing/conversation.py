"""Asks a server of MCP over lines of JSON, as STDIO has them: over a process' pipes, TCP, or a Unix socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hx_gateway.registry.probing.mcp_messages import Answer, answer_in, discover, initialize
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, failed, healthy

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
    lines = _Answers(read)
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        await send(discover() + b"\n")
        answer = await _within(lines, seconds / 2)
        if answer is not None and answer.serves:
            return _ready(began)
        began = time.monotonic()
        await send(initialize() + b"\n")
        answer = await lines.next()
        # A late refusal of the first request.
        if not answer.serves and answer.error_code is not None:
            answer = await _within(lines, seconds / 2) or answer
    if answer.serves:
        return _ready(began)
    code = "a result of another kind" if answer.error_code is None else f"the error {answer.error_code}"
    return failed(FailureClass.PROTOCOL, f"answered initialize with {code}", level=Level.REACHABLE)


class _Answers:
    """The answers among the lines that come. What was read of a line stays when nobody waits for it any more."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._rest = bytearray()
        self._total = 0

    async def next(self) -> Answer:
        """Return the next answer. Raises :class:`Silent` at the end, and after 256 KiB."""
        while True:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                answer = answer_in(bytes(line))
                if answer is not None:
                    return answer
                continue
            piece = await self._read()
            self._total += len(piece)
            if not piece or self._total > MAX_BYTES:
                raise Silent(spoke=self._total > 0)
            self._rest += piece


async def _within(answers: _Answers, seconds: float) -> Answer | None:
    try:
        async with asyncio.timeout(seconds):
            return await answers.next()
    except TimeoutError:
        return None


def _ready(began: float) -> ProbeOutcome:
    return replace(healthy(Level.READY), response_time_ms=(time.monotonic() - began) * 1000)
