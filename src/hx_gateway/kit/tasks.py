"""Ends tasks, those too that a cancellation did not reach."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], *, again_seconds: float = AGAIN_SECONDS) -> None:
    """Cancel tasks, and return once all have ended, whatever they raised.

    One that is cancelled just when what it waits for is done may go on as if nothing had happened: drivers and, before
    Python 3.12, ``asyncio.wait_for`` lose a cancellation then. It is cancelled again every ``again_seconds``.
    """
    asked = pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_seconds)
    await asyncio.gather(*asked, return_exceptions=True)
