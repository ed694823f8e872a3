"""The documentation as data: pages, the rows of their tables, their fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
SPAN = re.compile(r"`([^`]+)`")
_BLOCK = re.compile(r"(?:<!-- example: ([\w -]+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``name`` is that of the comment before it."""

    name: str
    language: str
    text: str


def name_of(path: Path) -> str:
    """Return the path of a page below the project's folder."""
    return str(path.relative_to(ROOT))


def read(name: str) -> str:
    """Return the text of a page below ``docs``."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(name or "", language, body) for name, language, body in _BLOCK.findall(text)]


def example(text: str, name: str) -> str:
    """Return the block behind the comment that names it."""
    return next(block.text for block in blocks(text) if block.name == name)


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first row is ``heading``, which is written as in the page."""
    lines = text.splitlines()
    table = lines[lines.index(heading) + 2 :]
    found = []
    for line in table:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def spans(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return SPAN.findall(cell)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
