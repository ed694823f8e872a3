"""What a backup holds: which tables at which revision, and how their rows are told from others."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

_DIGEST_BYTES = 16

Sink = Callable[[bytes], Awaitable[None]]


class Column(msgspec.Struct, frozen=True):
    """A column that is written: not a generated one. ``type`` as PostgreSQL's ``format_type`` tells it."""

    name: str
    type: str
    identity: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table with its columns. ``rows`` is the planner's estimate.

    ``days`` are the first days of the partitions that have rows, in ISO 8601 and UTC.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    rows: int = 0
    days: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name with its schema, for people."""
        return f"{self.schema}.{self.name}"

    @property
    def qualified(self) -> str:
        """The name with its schema, quoted for SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


class Contents(msgspec.Struct, frozen=True):
    """The tables in the order in which they are filled: what is referred to comes first."""

    revision: str
    server: str
    taken_at: str
    tables: tuple[Table, ...]
    left_out: tuple[str, ...] = ()


class Figures(msgspec.Struct, frozen=True):
    """What a table's rows come to: how many, their size in bytes as ``COPY`` tells them, and a digest of all of them.

    ``identities`` has the next value of each identity column.
    """

    rows: int
    size: int
    digest: str
    identities: dict[str, int] = {}

    def matches(self, other: Figures) -> bool:
        """Return whether both are of the same rows, in whatever order."""
        return (self.rows, self.size, self.digest) == (other.rows, other.size, other.digest)


class Source(Protocol):
    """Where rows come from: a database or a file. Tables are asked for in the order of ``contents``."""

    contents: Contents

    async def copy(self, table: Table, sink: Sink) -> Figures:
        """Give the rows of ``table`` to ``sink`` as ``COPY``'s text, in pieces that end anywhere."""
        ...

    async def finish(self) -> None:
        """See that what was given holds as a whole. Raises :class:`TransferError` where it does not."""
        ...


class Watch(Protocol):
    """Who is told how far it is."""

    def plan(self, tables: Sequence[Table]) -> None:
        """These tables are worked through, in every phase."""
        ...

    def begin(self, phase: str, table: Table) -> None:
        """``phase`` (``copying``, ``checking``) begins with ``table``."""
        ...

    def advance(self, rows: int, size: int) -> None:
        """``rows`` and ``size`` (bytes) of the table are done so far."""
        ...

    def end(self, figures: Figures) -> None:
        """The table is done."""
        ...


class RowDigest:
    """Counts rows of ``COPY``'s text and sums their hashes, so that the order in which they come does not matter.

    A line is a row: within rows line ends are escaped.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.size = 0
        self._sum = 0
        self._rest: list[bytes] = []

    def update(self, chunk: bytes) -> None:
        """Take the next piece, which may begin and end within a row."""
        self.size += len(chunk)
        first, *others = chunk.split(b"\n")
        self._rest.append(first)
        if not others:
            return
        rest = others.pop()
        for line in (b"".join(self._rest), *others):
            self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest())
        self.rows += 1 + len(others)
        self._rest = [rest]

    def figures(self, identities: dict[str, int] | None = None) -> Figures:
        """Return what came so far."""
        total = self._sum % (1 << 8 * _DIGEST_BYTES)
        return Figures(self.rows, self.size, f"{total:0{2 * _DIGEST_BYTES}x}", identities or {})


def quoted(name: str) -> str:
    """Return an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'
