"""Batches: what goes to whom, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from hx_gateway.journal.apply import Batches, Place
from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind
from tests.unit.journal.samples import DROPPING, REJECTING

PLACE = Place(UUID(int=1), 1, 0)


class Connection:
    """Takes every statement and answers that it did something."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def execute(self, *_: object) -> str:
        return "INSERT 0 1"


class Applier:
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def __call__(self, connection: Any, records: Sequence[Record]) -> None:
        self.calls.append([record.seq for record in records])


async def test_records_of_one_kind_are_applied_together_and_in_order_though_others_stand_between_them() -> None:
    calls, others = Applier(), Applier()
    kinds = {
        REJECTING: Kind(number=REJECTING, name="calls", applier=calls),
        DROPPING: Kind(number=DROPPING, name="others", applier=others),
    }
    mixed = [REJECTING, DROPPING, REJECTING, REJECTING, DROPPING, REJECTING]
    records = [Record(seq, kind, 0, 1, 0, 0, b"") for seq, kind in enumerate(mixed, start=1)]

    tally = await Batches(Connection(), kinds, lambda *_: None).apply(PLACE, records, 6, careful=False)

    assert calls.calls == [[1, 3, 4, 6]]
    assert others.calls == [[2, 5]]
    assert tally.committed == {"calls": 4, "others": 2}
