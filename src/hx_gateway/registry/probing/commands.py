"""Reads which STDIO servers the operator lets be started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hx_gateway.registry.probing.stdio_probe import StdioCommand

MAX_BYTES = 1024 * 1024


class CommandsError(Exception):
    """A file of commands that cannot be used; the text says why."""


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str | None = None


def load_commands(path: Path) -> Mapping[str, StdioCommand]:
    """Return the commands of a JSON file, by name: ``{"files": {"argv": ["mcp-files", "/srv"], "env": {}}}``.

    Raises :class:`CommandsError`, which shows no value of ``env``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandsError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise CommandsError(f"{path} has more than {MAX_BYTES:,} bytes.")
    try:
        found: Any = msgspec.json.decode(data, type=dict[str, _Command])
        return {
            name: StdioCommand(argv=each.argv, env=each.env, cwd=None if each.cwd is None else Path(each.cwd))
            for name, each in found.items()
        }
    except (msgspec.DecodeError, UnicodeError, ValueError) as error:
        raise CommandsError(f"{path} is not as it must be: {error}.") from None
