"""A YAML file as checked values that know where they stand, and which of them nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

ENVIRONMENT_PREFIX = "os.environ/"
MAX_FILE_BYTES = 8 * 1024 * 1024


class ModelConfigError(Exception):
    """A file that the server must not start with: file, line and field, and what is wrong. Never a value."""


class MissingVariable(Exception):
    """A value refers to an environment variable that is not set."""

    def __init__(self, field: str, variable: str) -> None:
        super().__init__(f"{field} refers to the variable {variable}, which is not set")
        self.field = field
        self.variable = variable


class Section:
    """One mapping of the file. Reading a key marks it as known; :meth:`unread` yields the others.

    Raises :class:`ModelConfigError` for a value of the wrong type and :class:`MissingVariable` for one that
    refers to an environment variable nobody set.
    """

    def __init__(self, source: str, path: str, values: CommentedMap, environ: Mapping[str, str]) -> None:
        self.path = path
        self._source = source
        self._values = values
        self._environ = environ
        self._read: set[str] = set()

    def text(self, key: str) -> str | None:
        """Return a string, ``None`` where there is none."""
        value = self._get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.error(key, "must be a string")

    def seconds(self, key: str) -> float | None:
        """Return a positive number of seconds, ``None`` where there is none."""
        value = self._get(key)
        if value is None:
            return None
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise self.error(key, "must be a positive number of seconds")
        return number

    def flag(self, key: str) -> bool | None:
        """Return a boolean, ``None`` where there is none."""
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(key, "must be true or false")

    def choice(self, key: str, choices: Sequence[str] | None) -> str | None:
        """Return one of ``choices`` (``None``: any text), ``None`` where there is none."""
        value = self._get(key)
        if value is None or (isinstance(value, str) and (choices is None or value in choices)):
            return value
        raise self.error(key, f"must be one of {', '.join(choices)}" if choices else "must be a string")

    def amount(self, key: str) -> Decimal | None:
        """Return a number that is not negative, exactly as it is written; ``None`` where there is none."""
        value = self._get(key)
        if value is None:
            return None
        try:
            number = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value).strip())
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number < 0:
            raise self.error(key, "must be a number that is not negative")
        return number

    def section(self, key: str) -> Section:
        """Return a mapping; one that is absent or null is empty."""
        value = self._get(key)
        if value is None:
            value = CommentedMap()
        if not isinstance(value, CommentedMap):
            raise self.error(key, "must be a mapping")
        return Section(self._source, self._path_of(key), value, self._environ)

    def sections(self, key: str) -> list[Section]:
        """Return a list of mappings; one that is absent or null is empty."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, CommentedSeq):
            raise self.error(key, "must be a list")
        found = []
        for index, entry in enumerate(value):
            path = f"{self._path_of(key)}[{index}]"
            if not isinstance(entry, CommentedMap):
                raise ModelConfigError(f"{self._source}:{_line(value, index)}: {path}: must be a mapping")
            found.append(Section(self._source, path, entry, self._environ))
        return found

    def texts(self, key: str) -> dict[str, str]:
        """Return a mapping of strings to strings."""
        inner = self.section(key)
        return {name: value for name in list(inner.keys()) if (value := inner.text(name)) is not None}

    def keys(self) -> Iterator[str]:
        """Yield the keys, checked to be strings."""
        for key in self._values:
            if not isinstance(key, str):
                raise self.error(key, "a key must be a string")
            yield key

    def has(self, key: str) -> bool:
        """Return whether ``key`` is there with a value; does not mark it as known."""
        return self._values.get(key) is not None

    def is_section(self, key: str) -> bool:
        """Return whether ``key`` holds a mapping; does not mark it as known."""
        return isinstance(self._values.get(key), CommentedMap)

    def know(self, *keys: str) -> None:
        """Mark ``keys`` as known: they mean nothing here, and lose nothing by it."""
        self._read.update(keys)

    def unread(self) -> list[str]:
        """Return the keys with a value that nobody read."""
        return [key for key in self.keys() if key not in self._read and self._values[key] is not None]

    def error(self, key: object, message: str) -> ModelConfigError:
        """Return the error for ``key``."""
        line = _line(self._values, key)
        return ModelConfigError(f"{self._source}:{line}: {self._path_of(key)}: {message}")

    def _path_of(self, key: object) -> str:
        return f"{self.path}.{key}" if self.path else str(key)

    def _get(self, key: str) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if isinstance(value, str) and value.startswith(ENVIRONMENT_PREFIX):
            variable = value.removeprefix(ENVIRONMENT_PREFIX)
            value = self._environ.get(variable)
            if not value:
                raise MissingVariable(self._path_of(key), variable)
        return value


def read_document(path: Path, environ: Mapping[str, str]) -> Section:
    """Return the mapping in the file at ``path``. An empty file is empty."""
    source = str(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelConfigError(f"{source}: the file is larger than {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelConfigError(f"{source}: the file is not valid UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ModelConfigError(f"{source}: cannot be read: {error.strerror}") from None
    yaml = YAML(typ="rt", pure=True)
    try:
        values = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        problem = (error.problem or "not YAML").splitlines()[0]
        raise ModelConfigError(f"{source}:{line}: {_without_value(problem)}") from None
    except (YAMLError, ValueError, RecursionError):
        raise ModelConfigError(f"{source}: not valid YAML") from None
    if values is None:
        values = CommentedMap()
    if not isinstance(values, CommentedMap):
        raise ModelConfigError(f"{source}:1: the file must hold a mapping with a 'model_list'")
    return Section(source, "", values, environ)


def _without_value(problem: str) -> str:
    """Return the parser's words without the value it repeats for a duplicate key: it may be a secret."""
    return problem.partition(" with value")[0]


def _line(values: CommentedMap | CommentedSeq, key: object) -> int:
    """Return the line of ``key``, or where ``values`` begins if it is not there."""
    position = (values.lc.data or {}).get(key)
    return int(position[0] if position else values.lc.line or 0) + 1
