"""Tasks that are told to end."""

from __future__ import annotations

import asyncio

from hx_gateway.kit.tasks import end_tasks


async def deaf(times: int) -> None:
    """Lose so many cancellations."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


async def failing() -> None:
    raise ValueError("made up")


async def test_a_task_that_lost_its_cancellation_is_told_again() -> None:
    tasks = [asyncio.create_task(deaf(times)) for times in (0, 1, 3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end_tasks(tasks, again_seconds=0.01)
    assert all(task.cancelled() for task in tasks)


async def test_what_tasks_raise_is_nobodys_business_any_more() -> None:
    tasks = [asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await end_tasks(tasks)
    await end_tasks([])
    assert tasks[0].done()
