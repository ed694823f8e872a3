"""How a host starts LiteLLM: what the unit of the core says, read from its files."""

from __future__ import annotations

import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hx_gateway.wiring.layout import CORE_UNIT, UNIT_FOLDER, Layout

# Where systemd looks, the one that wins first (systemd.unit(5)).
UNIT_FOLDERS = (
    UNIT_FOLDER,
    PurePosixPath("/run/systemd/system"),
    PurePosixPath("/usr/local/lib/systemd/system"),
    PurePosixPath("/usr/lib/systemd/system"),
    PurePosixPath("/lib/systemd/system"),
)
_PYTHONS = ("python", "python3")
# What may stand before a command (systemd.service(5)).
_PREFIXES = "-@:+!|"


@dataclass(frozen=True, slots=True)
class CoreUnit:
    """The Python that LiteLLM is started with, and its configuration; ``None`` for what the unit does not tell."""

    python: Path | None = None
    config: Path | None = None


def read_core_unit(layout: Layout) -> CoreUnit:
    """Return what the core's unit tells. Raises ``OSError`` for files that cannot be read."""
    words = _command(_text(layout))
    if not words:
        return CoreUnit()
    given = next((words[index + 1] for index, word in enumerate(words[:-1]) if word in ("--config", "-c")), None)
    config = layout.at(PurePosixPath(given)) if given is not None and given.startswith("/") else None
    return CoreUnit(_python(layout, PurePosixPath(words[0])), config)


def is_safe_to_run(program: Path) -> bool:
    """Return whether nobody but root and ourselves could have put ``program`` there: it is run as who looks."""
    try:
        path = program.resolve(strict=True)
        return all(_is_ours(place) for place in (path, path.parent, program.parent))
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    status = path.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _text(layout: Layout) -> str:
    """Return the unit's text, that of its drop-ins behind it: what is said later holds."""
    parts: list[str] = []
    drop_ins: dict[str, Path] = {}
    for folder in reversed(UNIT_FOLDERS):
        unit = layout.at(folder / f"{CORE_UNIT}.service")
        if unit.is_file():
            parts = [unit.read_text(encoding="utf-8", errors="replace")]
        for path in layout.at(folder / f"{CORE_UNIT}.service.d").glob("*.conf"):
            drop_ins[path.name] = path
    parts += [drop_ins[name].read_text(encoding="utf-8", errors="replace") for name in sorted(drop_ins)]
    return "\n".join(parts)


def _command(text: str) -> list[str]:
    """Return the words of the last ``ExecStart=``."""
    lines = re.findall(r"^[ \t]*ExecStart[ \t]*=[ \t]*(.*)$", text.replace("\\\n", " "), re.MULTILINE)
    if not lines or not lines[-1].strip():
        return []
    try:
        words = shlex.split(lines[-1].lstrip(_PREFIXES))
    except ValueError:
        return []
    return words if words and words[0].startswith("/") else []


def _python(layout: Layout, program: PurePosixPath) -> Path | None:
    """Return the Python of ``program``: itself, the one beside it, or the one that its first line names."""
    if program.name.startswith("python"):
        return layout.at(program)
    beside = [layout.at(program.parent / name) for name in _PYTHONS]
    found = next((path for path in beside if path.exists()), None)
    if found is not None:
        return found
    script = layout.at(program)
    if not script.is_file():
        return None
    with script.open("rb") as file:
        first = file.readline(1024).decode("utf-8", "replace").strip()
    named = first.removeprefix("#!").split(" ")[0] if first.startswith("#!/") else ""
    return layout.at(PurePosixPath(named)) if "python" in named else None
