"""Looks that block, away from the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Return what ``function`` returns, or raise what it raises.

    Its thread is one that nobody waits for at the end: one that hangs on a dead disk does not hold up the rest.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(done.set_result, function())
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            settle = partial(done.set_exception, error)
        # The loop may be gone by then.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_unless_done, done, settle)

    threading.Thread(target=run, name="hx-doctor", daemon=True).start()
    return await done


def _unless_done(future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not future.done():
        settle()
