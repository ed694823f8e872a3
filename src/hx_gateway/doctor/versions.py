"""Versions: of the program and of Python, and which servers' are new enough."""

from __future__ import annotations

import platform
import re
import sys

from hx_gateway import __version__
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
# PostgreSQL and Redis: the oldest that the tests run against. Valkey: its first. Qdrant: the first with `is_tenant`.
OLDEST_SERVERS: dict[str, tuple[int, ...]] = {
    "PostgreSQL": (15,),
    "Redis": (6, 2),
    "Valkey": (7, 2),
    "Qdrant": (1, 11),
}
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers that ``version`` begins with: ``(3, 0, 1)`` of ``3.0.1rc2``; none of what begins otherwise."""
    found = _RELEASE.match(version.removeprefix("v"))
    return tuple(int(part) for part in found[0].split(".")) if found is not None else ()


def examine_versions(around: Surroundings) -> list[Finding]:
    """Look at the program and its Python."""
    return [judge_python(sys.version_info[:2])]


def judge_python(version: tuple[int, int]) -> Finding:
    """Judge Python's version."""
    detail = f"hx-gateway {__version__}, Python {platform.python_version()}"
    if version < OLDEST_PYTHON:
        return problem(Subject.VERSIONS, detail, f"Install it with Python {_dotted(OLDEST_PYTHON)} or newer.")
    if version > NEWEST_PYTHON:
        return note(Subject.VERSIONS, f"{detail}, which it was not made for", f"Use {_dotted(NEWEST_PYTHON)} or older.")
    return ok(Subject.VERSIONS, detail)


def judge_server(subject: Subject, product: str, version: str, where: str) -> Finding:
    """Judge the version that a server tells of itself."""
    oldest = OLDEST_SERVERS[product]
    detail = f"{product} {version} {where}"
    found = release_of(version)
    if not found:
        return note(subject, f"{detail}: it does not tell its version")
    if found < oldest:
        remedy = f"Upgrade it to {_dotted(oldest)} or newer: the gateway needs what older ones do not have."
        return problem(subject, detail, remedy)
    return ok(subject, detail)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
