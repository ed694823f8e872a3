"""Programs that are asked something: without a shell, without our environment, and not for long."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

PROGRAM_SECONDS = 4.0


class ProgramFailed(Exception):
    """A program that cannot be run, or does not end; the text says which."""


async def output_of(program: Path, *arguments: str, seconds: float = PROGRAM_SECONDS) -> str:
    """Return what ``program`` prints, whatever its exit code. Raises :class:`ProgramFailed`."""
    try:
        child = await asyncio.create_subprocess_exec(
            program, *arguments, env={}, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError as error:
        raise ProgramFailed(f"it cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            output, _ = await child.communicate()
    except TimeoutError:
        raise ProgramFailed(f"no answer within {seconds:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return output.decode("utf-8", "replace")
