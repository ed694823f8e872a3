"""A backup as one file: a line that says what it is, then frames, each with a checksum.

A frame is its kind (a byte), the length of its payload and the CRC-32 of both (four bytes each, the highest first),
then the payload. They come in this order: ``H``, the :class:`Contents` as JSON; for each table of them any number of
``D``, at most a mebibyte of ``COPY``'s text compressed by zlib, and ``T``, its :class:`Figures` as JSON; last ``Z``,
the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import BinaryIO, TypeVar

import msgspec

from hx_gateway.db.transfer.contents import Contents, Figures, RowDigest, Sink, Source, Table, Watch
from hx_gateway.db.transfer.errors import DamagedBackup, TransferError
from hx_gateway.db.transfer.sessions import counting

FORMAT = 1
CHUNK_BYTES = 1024 * 1024
# What is longer was not written by us. The header has some hundred bytes a table.
MAX_FRAME_BYTES = 16 * 1024 * 1024
_TITLE = b"hx-gateway backup "
_MAX_TITLE_BYTES = 64
_HEAD = struct.Struct(">cII")

T = TypeVar("T")


async def write_backup(source: Source, file: BinaryIO, watch: Watch) -> dict[str, Figures]:
    """Write all that ``source`` has to ``file``; return what each table's rows came to, by its name.

    Raises :class:`TransferError` where the file cannot be written, and what the source raises.
    """
    watch.plan(source.contents.tables)
    writer = _Writer(file)
    writer.frame(b"H", msgspec.json.encode(source.contents))
    written = {}
    for table in source.contents.tables:
        watch.begin("copying", table)
        figures = await source.copy(table, writer.sink(watch))
        writer.flush()
        writer.frame(b"T", msgspec.json.encode(figures))
        watch.end(figures)
        written[table.label] = figures
    await source.finish()
    writer.frame(b"Z", writer.digest.digest())
    return written


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._waiting = bytearray()
        self._write(b"%s%d\n" % (_TITLE, FORMAT))

    def frame(self, kind: bytes, payload: bytes) -> None:
        self._write(_HEAD.pack(kind, len(payload), zlib.crc32(payload, zlib.crc32(kind))) + payload)

    def sink(self, watch: Watch) -> Sink:
        """Return what takes the rows of one table."""
        rows = size = 0

        async def take(chunk: bytes) -> None:
            nonlocal rows, size
            rows += chunk.count(b"\n")
            size += len(chunk)
            watch.advance(rows, size)
            self._waiting += chunk
            while len(self._waiting) >= CHUNK_BYTES:
                self._compress(CHUNK_BYTES)

        return take

    def flush(self) -> None:
        if self._waiting:
            self._compress(len(self._waiting))

    def _compress(self, size: int) -> None:
        self.frame(b"D", zlib.compress(bytes(self._waiting[:size])))
        del self._waiting[:size]

    def _write(self, data: bytes) -> None:
        self.digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise TransferError(f"the backup cannot be written: {error.strerror}.") from error


class Backup:
    """A :class:`~hx_gateway.db.transfer.contents.Source`: a file that is read once, from its beginning to its end.

    ``file`` must be at its beginning; ``name`` is what messages call it. Raises :class:`TransferError` for a format
    that is not known here and :class:`DamagedBackup` for what is no backup, here and in each method.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._digest = hashlib.sha256()
        self._offset = 0
        self._read_title()
        kind, payload = self._frame("its header")
        if kind != b"H":
            raise self._damaged("has no header")
        self.contents = self._decoded(payload, Contents)

    async def copy(self, table: Table, sink: Sink) -> Figures:
        """Give the rows of ``table``, which must be the next one, and see that they are those that were written."""
        digest = RowDigest()
        take = counting(digest, sink)
        while True:
            kind, payload = self._frame(table.label)
            if kind == b"T":
                break
            if kind != b"D":
                raise self._damaged(f"ends within {table.label}")
            await take(self._inflated(payload))
        figures = self._decoded(payload, Figures)
        if not figures.matches(digest.figures()):
            raise self._damaged(f"has other rows of {table.label} than were written")
        return figures

    async def finish(self) -> None:
        """See that the file ends where it should, and that its bytes are those that were written."""
        expected = self._digest.digest()
        kind, payload = self._frame("its end")
        if kind != b"Z" or payload != expected:
            raise self._damaged("does not end as it was written")
        if self._read(1):
            raise self._damaged("has more bytes behind its end")

    def _read_title(self) -> None:
        title = self._file.readline(_MAX_TITLE_BYTES)
        self._digest.update(title)
        self._offset = len(title)
        number = title.removeprefix(_TITLE).strip()
        if not title.startswith(_TITLE) or not number.isdigit():
            raise DamagedBackup(f"{self._name!r} is no backup of a gateway: give a file that `db backup` wrote.")
        if int(number) != FORMAT:
            raise TransferError(f"{self._name!r} has the format {int(number)}, not {FORMAT}: run the newer program.")

    def _frame(self, where: str) -> tuple[bytes, bytes]:
        head = self._read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise self._damaged(f"is cut short, in {where}")
        kind, length, checksum = _HEAD.unpack(head)
        if length > MAX_FRAME_BYTES:
            raise self._damaged(f"has a frame of {length} bytes, in {where}")
        payload = self._read(length)
        if len(payload) < length:
            raise self._damaged(f"is cut short, in {where}")
        if zlib.crc32(payload, zlib.crc32(kind)) != checksum:
            raise self._damaged(f"was changed, in {where}")
        self._digest.update(head + payload)
        self._offset += len(head) + length
        return kind, payload

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise TransferError(f"{self._name!r} cannot be read: {error.strerror}.") from error

    def _inflated(self, payload: bytes) -> bytes:
        try:
            data = zlib.decompressobj().decompress(payload, CHUNK_BYTES + 1)
        except zlib.error as error:
            raise self._damaged(f"cannot be decompressed ({error})") from None
        if len(data) > CHUNK_BYTES:
            raise self._damaged("has too much in one frame")
        return data

    def _decoded(self, payload: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(payload, type=kind)
        except msgspec.DecodeError as error:
            raise self._damaged(f"cannot be read ({error})") from None

    def _damaged(self, how: str) -> DamagedBackup:
        return DamagedBackup(
            f"{self._name!r} is damaged: it {how}, around byte {self._offset}. Take another copy of it, or an earlier "
            "backup; nothing was restored."
        )


async def check_backup(backup: Backup, watch: Watch) -> dict[str, Figures]:
    """Read ``backup`` to its end; return what each table's rows come to. Raises :class:`DamagedBackup`."""
    watch.plan(backup.contents.tables)
    found = {}
    for table in backup.contents.tables:
        watch.begin("reading", table)
        found[table.label] = await backup.copy(table, nowhere)
        watch.end(found[table.label])
    await backup.finish()
    return found


async def nowhere(chunk: bytes) -> None:
    """Take rows that nobody wants."""
