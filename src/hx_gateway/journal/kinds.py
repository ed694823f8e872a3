"""Kinds of records: what each is called, what may be dropped, and who makes rows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from hx_gateway.journal.copy_rows import RowFormat
from hx_gateway.journal.format import Record


class Policy(StrEnum):
    """What happens to a kind's records when the journal is over its budget.

    ``REJECT``: new ones are refused, their callers are told. ``SHED``: from 80 % of the budget those marked sheddable
    are dropped, the others are kept, and refused when it is full. ``DROP_OLDEST``: the oldest make room. What is
    dropped is counted.
    """

    REJECT = "reject"
    SHED = "shed"
    DROP_OLDEST = "drop_oldest"


class Applier(Protocol):
    """Applies records that do not become rows of one table. Called in the cursor's transaction.

    May be called again with the same records after a failure: everything it does must be undone by a rollback.
    Raises ``ValueError`` for records that can never be applied.
    """

    async def __call__(self, connection: Any, records: Sequence[Record]) -> None: ...


# Makes records of other kinds, which hold rows, out of one; the same ones each time it is called.
Expander = Callable[[Record], Sequence[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind. ``number`` stands in the records for ever: it is never given to another kind.

    ``format`` says that the payload is rows in PostgreSQL's binary COPY format; ``expand`` that it stands for rows of
    other kinds, made when it is drained; else there is an ``applier``.
    """

    number: int
    name: str
    policy: Policy = Policy.REJECT
    format: RowFormat | None = None
    expand: Expander | None = None
    applier: Applier | None = None
