"""Lines of a text whose every byte counts: where they begin and end, and how one is added behind another."""

from __future__ import annotations

import re
from collections.abc import Sequence

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


def line_start(text: str, index: int) -> int:
    """Return where the line with ``index`` begins."""
    breaks = [found.end() for found in LINE_BREAK.finditer(text, 0, index)]
    return breaks[-1] if breaks else 0


def line_end(text: str, index: int) -> int:
    """Return where the line with ``index`` ends, behind its line break."""
    found = LINE_BREAK.search(text, index)
    return found.end() if found is not None else len(text)


def line_of(text: str, index: int) -> int:
    """Return the number of the line with ``index``, from 1."""
    return sum(found.end() <= index for found in LINE_BREAK.finditer(text)) + 1


def break_of(text: str) -> str:
    """Return the line break that ``text`` uses."""
    found = LINE_BREAK.search(text)
    return found.group() if found is not None else "\n"


def with_lines(text: str, at: int, lines: Sequence[str], *, newline: str | None = None) -> str:
    """Return ``text`` with ``lines`` behind the line that ends at ``at``; their ``newline`` is the text's by default.

    A text whose last line has no line break has none afterwards either.
    """
    newline = newline or break_of(text)
    if at == 0 or LINE_BREAK.fullmatch(text[at - 1]):
        return text[:at] + "".join(f"{line}{newline}" for line in lines) + text[at:]
    return text[:at] + "".join(f"{newline}{line}" for line in lines) + text[at:]


def without_lines(text: str, start: int, end: int) -> str:
    """Return ``text`` without its lines from ``start`` to ``end``.

    Where the last line of all had no line break, the one before it goes too.
    """
    last_is_open = end == len(text) and end > start and LINE_BREAK.fullmatch(text[end - 1 :]) is None
    if last_is_open and start > 0:
        start -= 2 if text[:start].endswith("\r\n") else 1
    return text[:start] + text[end:]
