"""A tree for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.wiring.staging import BASE, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    yield Tree(root)
    # An ordinary user cannot tidy up what a test closed.
    with suppress(FileNotFoundError):
        (root / BASE / "config").chmod(0o755)
