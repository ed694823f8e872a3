"""A tree for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.wiring.staging import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    return Tree(root)
