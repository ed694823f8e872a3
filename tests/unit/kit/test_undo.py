"""Undoing happens on failure, and only then."""

from __future__ import annotations

import asyncio

import pytest

from hx_gateway.kit.undo import undone_on_failure


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_what_failed_is_undone_and_the_error_goes_on(kind: type[BaseException]) -> None:
    undone: list[bool] = []
    with pytest.raises(kind), undone_on_failure(lambda: undone.append(True)):
        raise kind
    assert undone == [True]


def test_what_worked_stays() -> None:
    undone: list[bool] = []
    with undone_on_failure(lambda: undone.append(True)):
        pass
    assert undone == []
