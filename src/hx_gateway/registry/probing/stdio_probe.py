"""Starts a server of the operator's, asks it over its pipes, and ends it with all that it started."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hx_gateway.registry.probing.conversation import MAX_BYTES, Read, Send, Silent, ask, ask_tools
from hx_gateway.registry.probing.outcome import FailureClass, ProbeOutcome, Unanswered, failed, unasked
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.tool_definitions import ToolList

# A server that is told by the end of its input may take this long to leave, and as long again when it is asked to.
LEAVE_SECONDS = 1.0
PIECE_BYTES = 64 * 1024
_T = TypeVar("_T")
# What a server gets of the gateway's environment: nothing that could be a secret.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioCommand:
    """A command that the operator lets be started: the program and all its arguments, never through a shell.

    ``env`` is added to the few harmless variables that a server gets. Raises ``ValueError`` without a program.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise ValueError("argv must begin with a program")

    def environment(self) -> dict[str, str]:
        """Return all that the server gets."""
        return {**{name: os.environ[name] for name in _PASSED_ON if name in os.environ}, **self.env}


class StdioProbe:
    """Probes servers by starting them. ``commands`` is all that may be started, by the names services use for them.

    A service names one in ``config.command``; what else its config says of a command is not looked at.
    """

    def __init__(self, commands: Mapping[str, StdioCommand]) -> None:
        self._commands = dict(commands)

    async def probe(self, target: Target, *, seconds: float) -> ProbeOutcome:
        """Return what was found, in about ``seconds`` and what it takes the server to leave.

        When this returns or is cancelled, no process of the server's group is left.
        """
        try:
            return await self._talk(target, lambda send, read: ask(send, read, seconds=seconds))
        except Unanswered as failure:
            return failure.outcome

    async def list_tools(self, target: Target, *, seconds: float) -> ToolList:
        """Return the tools of a server, which is started and ended as it is for a probe. Raises :class:`Unanswered`."""
        return await self._talk(target, lambda send, read: ask_tools(send, read, seconds=seconds))

    async def _talk(self, target: Target, ask_it: Callable[[Send, Read], Awaitable[_T]]) -> _T:
        name = target.config.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            if name is None and not target.auto_start:
                raise Unanswered(unasked("config.command: the service has none, and is not started by the gateway"))
            raise _unanswered(
                FailureClass.EGRESS_DENIED, "config.command: it is none of those that the operator allows"
            )
        environment = command.environment()
        program = await asyncio.to_thread(shutil.which, command.argv[0], path=environment.get("PATH"))
        if program is None:
            raise _unanswered(FailureClass.CRASHED, "its program is not installed")
        return await _started(program, command, environment, ask_it)


async def _started(
    program: str,
    command: StdioCommand,
    environment: Mapping[str, str],
    ask_it: Callable[[Send, Read], Awaitable[_T]],
) -> _T:
    try:
        async with _running(program, command, environment) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None

            async def send(data: bytes) -> None:
                stdin.write(data)
                # One that has ended is noticed by reading, with what it said before.
                with suppress(ConnectionError):
                    await stdin.drain()

            async def read() -> bytes:
                return await stdout.read(PIECE_BYTES)

            return await ask_it(send, read)
    except TimeoutError as error:
        raise _unanswered(FailureClass.TIMEOUT, "did not answer in time") from error
    except Silent as silent:
        if silent.spoke:
            raise _unanswered(FailureClass.NOT_MCP, "wrote something that is no MCP, and ended") from silent
        raise _unanswered(FailureClass.CRASHED, "ended without an answer") from silent
    except OSError as error:
        raise _unanswered(FailureClass.CRASHED, "its program could not be started") from error


def _unanswered(failure_class: FailureClass, reason: str) -> Unanswered:
    return Unanswered(failed(failure_class, reason))


@asynccontextmanager
async def _running(
    program: str, command: StdioCommand, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command in a session of its own. Whatever happens within, its process group is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        program,
        *command.argv[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # It may hold secrets, and nobody reads it.
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        cwd=command.cwd,
        start_new_session=True,
        limit=MAX_BYTES,
    )
    try:
        yield process
        await _leave(process)
    finally:
        # Without a wait before it: whoever is cancelled here may be cancelled again.
        _kill_group(process.pid, signal.SIGKILL)
        transport = process._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio closes pipes nowhere else
        transport.close()
        await asyncio.shield(process.wait())


async def _leave(process: asyncio.subprocess.Process) -> None:
    """Let it go as MCP has it: its input ends, then it is asked to (specification, lifecycle, shutdown)."""
    assert process.stdin is not None
    process.stdin.close()
    for number in (None, signal.SIGTERM):
        if number is not None:
            _kill_group(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await process.wait()
                return


def _kill_group(leader: int, number: signal.Signals) -> None:
    """Signal all of the group; one whose leader is gone still has its number while anybody is in it."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)
