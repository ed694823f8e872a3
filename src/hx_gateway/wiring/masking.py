"""What the commands show of a host: never a credential, whoever put it there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "[hidden]"
# A shorter one would hide parts of every other word; whole URLs are hidden anyway.
LEAST_LENGTH = 4
_USER_INFORMATION = re.compile(r"(\w://)[^\s\"'<>]*@")
# The values that a diff of YAML or of an environment file may show.
_OPEN_VALUE = re.compile(
    r"os\.environ/\w+|redis|true|false|on|off|yes|no|null|~|none|INFO|\d{1,5}|0\.0\.0\.0|http://127\.0\.0\.1:\d+|",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key(?!_rpm)", re.IGNORECASE)
_LINE = re.compile(r"(\s*(?:export\s+)?[\w.-]+\s*)([:=])(\s*)([^#]*?)(\s*)(#.*)?")
_SHOWN_WHOLE = re.compile(r"\s*(\[[A-Z]\w+\])?\s*")


def credentials_in(value: str) -> list[str]:
    """Return every form in which what is secret in ``value`` can show up: of a URL its password, else all of it."""
    if "://" not in value:
        return value.splitlines()
    try:
        parts = urlsplit(value)
        given = [parts.password or "", *(field.partition("=")[2] for field in parts.query.split("&") if _names(field))]
    except ValueError:
        return [value]
    return [form for one in given for form in {one, unquote(one), quote(unquote(one))} if form]


def _names(field: str) -> bool:
    return _SECRET_NAME.search(field.partition("=")[0]) is not None


class Mask:
    """Hides the secrets it knows, and what stands before the ``@`` of any URL."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= LEAST_LENGTH}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def hide(self, text: str) -> str:
        """Return ``text`` without what is secret."""
        shown = self._known.sub(HIDDEN, text) if self._known is not None else text
        return _USER_INFORMATION.sub(rf"\1{HIDDEN}@", shown)


def masked_diff(name: str, before: str, after: str, *, ours: bool) -> str:
    """Return the lines that differ, without those around them; of a value only what is surely no secret is shown.

    ``ours`` says that ``after`` was written by this program and holds no secret: what is added is shown as it is.
    """
    head, changed = [], []
    for number, line in enumerate(
        difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, n=0, lineterm="")
    ):
        # The first two name the file; a line that was taken out may begin with dashes too.
        if number < 2:
            head.append(line)
        elif line.startswith("@@") or (ours and line[0] == "+"):
            changed.append(line)
        else:
            changed.append(line[0] + _masked(line[1:]))
    return "\n".join([*head, *changed])


def _masked(line: str) -> str:
    if _SHOWN_WHOLE.fullmatch(line):
        return line
    found = _LINE.fullmatch(line)
    if found is None:
        return HIDDEN
    head, sign, gap, value, _, comment = found.groups()
    shown = value if _OPEN_VALUE.fullmatch(value) and not _SECRET_NAME.search(head) else HIDDEN
    return f"{head}{sign}{gap}{shown}{' # …' if comment else ''}"
