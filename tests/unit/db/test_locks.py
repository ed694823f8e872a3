"""What is tried again while others are in the way, and what is not."""

from __future__ import annotations

import asyncpg
import pytest

from hx_gateway.db.locks import ATTEMPTS, BUSY, milliseconds, patiently


class Failing:
    """Fails a number of times with an error, then returns its number of calls."""

    def __init__(self, error: type[Exception], times: int) -> None:
        self.error = error
        self.times = times
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error("in the way")
        return self.calls


@pytest.mark.parametrize("error", BUSY)
async def test_who_is_in_the_way_is_waited_for(error: type[Exception]) -> None:
    assert await patiently(Failing(error, ATTEMPTS - 1)) == ATTEMPTS


async def test_after_a_few_tries_the_error_is_the_callers() -> None:
    operation = Failing(asyncpg.LockNotAvailableError, ATTEMPTS)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await patiently(operation)
    assert operation.calls == ATTEMPTS


async def test_another_error_is_not_tried_again() -> None:
    operation = Failing(asyncpg.InsufficientPrivilegeError, 1)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await patiently(operation)
    assert operation.calls == 1


def test_a_time_out_is_never_written_as_none_at_all() -> None:
    assert milliseconds(2.0) == 2000
    assert milliseconds(0.0) == 1
    assert milliseconds(0.0001) == 1
