"""Changes single variables of a file of ``NAME=value`` lines, as systemd reads it; the rest stays as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hx_gateway.wiring.text_lines import line_of, with_lines, without_lines

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_QUOTED = {"'": re.compile(r"'[^']*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)}
# What systemd and python-dotenv end a line at; YAML knows more.
_LINE_BREAK = re.compile(r"\r\n|[\r\n]")
_COMMENT = re.compile(r"[ \t]*[#;]")
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
            start, at = at, _line_end(text, at)
            if _COMMENT.match(text, start) is not None and _goes_on(text, start, at):
                # Before systemd 254 the next line is a part of the comment, since then it is none.
                raise EnvFileProblem(line_of(text, start), "a comment ends with a backslash: take that away")
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
        found = _LINE_BREAK.search(text)
        newline = found.group() if found is not None else "\n"
        return _checked(text, with_lines(text, len(text), [line], newline=newline), name, value)
    last = stood[-1]
    if last.value == value:
        return text
    old = text[last.start : last.end]
    new = text[: last.start] + line + old[len(old.rstrip("\r\n")) :] + text[last.end :]
    return _checked(text, new, name, value)


def remove_variable(text: str, name: str) -> str:
    """Return ``text`` without any assignment of ``name``."""
    for variable in reversed(variables(text)):
        if variable.name == name:
            new = without_lines(text, variable.start, variable.end)
            _check_others(text, new, name)
            text = new
    return text


def _checked(text: str, new: str, name: str, value: str) -> str:
    """Return ``new`` once it says what it is to say: a line before may go on into the one that was added."""
    if value_of(new, name) != value:
        raise EnvFileProblem(line_of(text, len(text)), "the file does not end with a whole line: end it")
    _check_others(text, new, name)
    return new


def _check_others(text: str, new: str, name: str) -> None:
    before, after = ([(one.name, one.value) for one in variables(part) if one.name != name] for part in (text, new))
    if before != after:
        raise EnvFileProblem(line_of(text, len(text)), f"{name} cannot be changed without what is beside it")


def _line_end(text: str, index: int) -> int:
    found = _LINE_BREAK.search(text, index)
    return found.end() if found is not None else len(text)


def _value(text: str, start: int) -> tuple[str, int]:
    quote = text[start : start + 1]
    if quote in _QUOTED and quote:
        closed = _QUOTED[quote].match(text, start)
        if closed is None:
            raise EnvFileProblem(line_of(text, start), "a quote is not closed")
        inner = closed.group()[1:-1]
        return re.sub(r"\\(.)", r"\1", inner) if quote == '"' else inner, _line_end(text, closed.end())
    end = _line_end(text, start)
    while _goes_on(text, start, end):
        end = _line_end(text, end)
    return text[start:end].strip(" \t\r\n"), end


def _goes_on(text: str, start: int, end: int) -> bool:
    found = _BACKSLASHES_AT_THE_END.search(text[start:end])
    return found is not None and len(found.group(1)) % 2 == 1 and end < len(text)
