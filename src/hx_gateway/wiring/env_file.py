"""Changes single variables of a file of ``NAME=value`` lines, as systemd reads it; the rest stays as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hx_gateway.wiring.text_lines import line_end, line_of, with_lines, without_lines

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_QUOTED = {"'": re.compile(r"'[^']*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)}
_BACKSLASHES_AT_THE_END = re.compile(r"(\\+)\r?\n\Z")


class EnvFileProblem(Exception):
    """A file that cannot be told apart into variables. ``line`` counts from 1; the words never repeat a value."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Variable:
    """One assignment: ``text[start:end]``, its line break included, over several lines where the value goes on."""

    name: str
    value: str
    start: int
    end: int


def variables(text: str) -> list[Variable]:
    """Return the assignments of ``text`` in their order. Raises :class:`EnvFileProblem`."""
    found, at = [], 0
    while at < len(text):
        match = _ASSIGNMENT.match(text, at)
        if match is None:
            at = line_end(text, at)
            continue
        value, end = _value(text, match.end())
        found.append(Variable(match.group(1), value, at, end))
        at = end
    return found


def value_of(text: str, name: str) -> str | None:
    """Return the value of ``name`` that is in force: of several the last."""
    values = [variable.value for variable in variables(text) if variable.name == name]
    return values[-1] if values else None


def set_variable(text: str, name: str, value: str) -> str:
    """Return ``text`` with ``name`` set to ``value``, which needs no quotes: where it stood last, or at the end."""
    stood = [variable for variable in variables(text) if variable.name == name]
    line = f"{name}={value}"
    if not stood:
        return with_lines(text, len(text), [line])
    last = stood[-1]
    if last.value == value:
        return text
    old = text[last.start : last.end]
    return text[: last.start] + line + old[len(old.rstrip("\r\n")) :] + text[last.end :]


def remove_variable(text: str, name: str) -> str:
    """Return ``text`` without any assignment of ``name``."""
    for variable in reversed(variables(text)):
        if variable.name == name:
            text = without_lines(text, variable.start, variable.end)
    return text


def _value(text: str, start: int) -> tuple[str, int]:
    quote = text[start : start + 1]
    if quote in _QUOTED and quote:
        closed = _QUOTED[quote].match(text, start)
        if closed is None:
            raise EnvFileProblem(line_of(text, start), "a quote is not closed")
        inner = closed.group()[1:-1]
        return re.sub(r"\\(.)", r"\1", inner) if quote == '"' else inner, line_end(text, closed.end())
    end = line_end(text, start)
    while _goes_on(text, start, end):
        end = line_end(text, end)
    return text[start:end].strip(), end


def _goes_on(text: str, start: int, end: int) -> bool:
    found = _BACKSLASHES_AT_THE_END.search(text[start:end])
    return found is not None and len(found.group(1)) % 2 == 1 and end < len(text)
