"""Files that commands write: there whole, or not at all."""

from __future__ import annotations

import sys
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
