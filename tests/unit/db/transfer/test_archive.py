"""The file of a backup: what was written comes back, and whatever happened to it since is noticed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence

import pytest

from hx_gateway.db.transfer.archive import CHUNK_BYTES, Backup, check_backup, write_backup
from hx_gateway.db.transfer.contents import Column, Contents, Figures, RowDigest, Sink, Table
from hx_gateway.db.transfer.errors import DamagedBackup, TransferError

ROWS = {"tenants": b"acme\\t\\\\N\nrival\t1\n", "teams": b"", "users": b"one\n"}


class Unwatched:
    """Nobody looks."""

    def plan(self, tables: Sequence[Table]) -> None: ...
    def begin(self, phase: str, table: Table) -> None: ...
    def advance(self, rows: int, size: int) -> None: ...
    def end(self, figures: Figures) -> None: ...


class Memory:
    """Rows in memory, given in pieces of ``piece`` bytes."""

    def __init__(self, rows: Mapping[str, bytes] = ROWS, piece: int = 5) -> None:
        tables = tuple(Table("hx_gateway", name, (Column("id", "bigint", identity=True),)) for name in rows)
        self.contents = Contents("0014", "18.0", "2026-12-01T00:00:00+00:00", tables)
        self._rows = rows
        self._piece = piece

    async def copy(self, table: Table, sink: Sink) -> Figures:
        digest = RowDigest()
        rows = self._rows[table.name]
        for start in range(0, len(rows), self._piece):
            digest.update(rows[start : start + self._piece])
            await sink(rows[start : start + self._piece])
        return digest.figures({"id": 7})

    async def finish(self) -> None:
        """Nothing to see to."""


def written(source: Memory) -> bytes:
    file = io.BytesIO()
    asyncio.run(write_backup(source, file, Unwatched()))
    return file.getvalue()


def read(data: bytes) -> dict[str, Figures]:
    return asyncio.run(check_backup(Backup(io.BytesIO(data), "the file"), Unwatched()))


async def rows_of(data: bytes) -> dict[str, bytes]:
    backup = Backup(io.BytesIO(data), "the file")
    found = {}
    for table in backup.contents.tables:
        pieces: list[bytes] = []

        async def take(chunk: bytes, pieces: list[bytes] = pieces) -> None:
            pieces.append(chunk)

        await backup.copy(table, take)
        found[table.name] = b"".join(pieces)
    await backup.finish()
    return found


def digest_of(*pieces: bytes) -> Figures:
    digest = RowDigest()
    for piece in pieces:
        digest.update(piece)
    return digest.figures()


def test_what_was_written_comes_back() -> None:
    data = written(Memory())
    assert data.startswith(b"hx-gateway backup 1\n")
    assert asyncio.run(rows_of(data)) == ROWS
    found = read(data)
    assert {name: figures.rows for name, figures in found.items()} == {
        "hx_gateway.tenants": 2,
        "hx_gateway.teams": 0,
        "hx_gateway.users": 1,
    }
    assert found["hx_gateway.users"].identities == {"id": 7}
    assert Backup(io.BytesIO(data), "the file").contents == Memory().contents


def test_large_rows_come_back_in_pieces() -> None:
    rows = {"notes": b"".join(b"%d " % n * 15_000 + b"\n" for n in range(100))}
    assert len(rows["notes"]) > 3 * CHUNK_BYTES
    assert asyncio.run(rows_of(written(Memory(rows, piece=70_001)))) == rows


def test_every_cut_is_noticed() -> None:
    data = written(Memory())
    for length in range(len(data)):
        with pytest.raises(DamagedBackup, match="'the file' is"):
            read(data[:length])


def test_every_flipped_bit_is_noticed() -> None:
    data = written(Memory())
    for place in range(len(data)):
        for bit in (1, 128):
            flipped = bytearray(data)
            flipped[place] ^= bit
            with pytest.raises(TransferError, match="'the file'"):
                read(bytes(flipped))


def test_what_is_behind_the_end_is_noticed() -> None:
    with pytest.raises(DamagedBackup, match="more bytes behind its end"):
        read(written(Memory()) + b"\n")


def test_frames_of_another_backup_are_noticed() -> None:
    mine, other = (
        written(Memory()),
        written(Memory({"tenants": b"acme\t1\\N\nrival\t2\n", "teams": b"", "users": b"two\n"})),
    )
    # Where the frame of the users' rows begins in each: what is on either side is as it was written.
    cut, other_cut = (data.rindex(b"D", 0, data.rindex(b"T")) for data in (mine, other))
    with pytest.raises(DamagedBackup, match="does not end as it was written"):
        read(mine[:cut] + other[other_cut:])


def test_a_newer_format_is_told_from_damage() -> None:
    with pytest.raises(TransferError, match="the format 2, not 1: run the newer program") as caught:
        read(written(Memory()).replace(b"backup 1\n", b"backup 2\n", 1))
    assert not isinstance(caught.value, DamagedBackup)


def test_a_source_that_fails_leaves_what_is_no_backup() -> None:
    class Failing(Memory):
        async def copy(self, table: Table, sink: Sink) -> Figures:
            if table.name == "users":
                raise TransferError("the source is gone")
            return await super().copy(table, sink)

    file = io.BytesIO()
    with pytest.raises(TransferError, match="the source is gone"):
        asyncio.run(write_backup(Failing(), file, Unwatched()))
    with pytest.raises(DamagedBackup, match=r"cut short, in hx_gateway\.users"):
        read(file.getvalue())


def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(TransferError, match="No space left on device"):
        asyncio.run(write_backup(Memory(), full, Unwatched()))


def test_a_digest_knows_rows_and_not_their_order_or_pieces() -> None:
    whole = digest_of(b"one\ntwo\nthree\n")
    assert whole.rows == 3
    assert digest_of(b"thr", b"ee\no", b"", b"ne\n", b"two\n").matches(whole)
    for other in (b"one\ntwo\nthref\n", b"one\ntwo\n", b"one\ntwo\nthree\nthree\n", b"ones\ntwo\nhree\n"):
        assert not digest_of(other).matches(whole)
    assert not digest_of(b"one\none\n").matches(digest_of(b"two\ntwo\n"))
