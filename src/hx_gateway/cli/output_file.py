"""Files that commands write: there whole, or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from hx_gateway.cli.client import EXIT_FAILED
from hx_gateway.cli.start import fail


@contextmanager
def whole_file(out: Path | None) -> Iterator[BinaryIO]:
    """Give what becomes ``out`` once all is written; without ``out``, standard output."""
    draft = None if out is None else out.with_name(f".{out.name}.part")
    try:
        with nullcontext(sys.stdout.buffer) if draft is None else draft.open("wb") as file:
            yield file
        if draft is not None and out is not None:
            draft.replace(out)
    except OSError as error:
        fail(f"{out or 'standard output'}: {error.strerror}", code=EXIT_FAILED)
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


@contextmanager
def private_file(out: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Give what becomes ``out`` once all is written and safe on the disk, with mode 0600; or leave and say why not."""
    if out.is_dir() or (out.exists() and not overwrite):
        fail(f"{str(out)!r} is there already: give another name{'' if out.is_dir() else ', or --overwrite'}.")
    draft: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        draft = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        draft.replace(out)
        _sync_folder(out.parent)
    except OSError as error:
        fail(f"{str(out)!r} cannot be written: {error.strerror}.", code=EXIT_FAILED)
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
