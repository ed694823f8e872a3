"""Whether a journal that a process left behind is on this disk, and whether all of it is applied."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

from hx_gateway.journal.streams import StreamFolder

ROOT_FILE = "root"


class JournalRoot:
    """A folder of journals' streams, which all processes that write or drain them share: ``journal.root``.

    ``id`` tells it from every other, wherever it is mounted. Raises ``OSError`` where it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.id = _read_or_make(path)

    def is_applied(self, stream: UUID) -> bool:
        """Return whether a stream's writer is gone and nothing that it wrote is left to apply.

        Its folder goes when both are so: whoever drains this root adopts it. One that is empty is removed here.
        """
        path = self._path / str(stream)
        if not path.exists():
            return True
        folder = StreamFolder.adopt(path)
        if folder is None:
            return not path.exists()
        if folder.segments():
            folder.release()
            return False
        folder.remove()
        return True


def _read_or_make(root: Path) -> str:
    """Return the root's id: the one that whoever came first wrote down whole."""
    root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    root.mkdir(exist_ok=True, mode=0o700)
    path = root / ROOT_FILE
    with suppress(FileNotFoundError, ValueError):
        return str(UUID(path.read_text().strip()))
    draft = root / f".{ROOT_FILE}-{uuid4()}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{uuid4()}\n")
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
        return str(UUID(path.read_text().strip()))
    except ValueError as error:
        raise OSError(f"{path} holds no id: remove it") from error
    finally:
        draft.unlink(missing_ok=True)
