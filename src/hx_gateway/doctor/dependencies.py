"""Installed packages beside the ranges that the program declares and the versions that its lock names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.doctor.versions import release_of

DISTRIBUTION = "hx-gateway"
SHOWN = 5
# Four folders above this file, in a clone.
CLONE = Path(__file__).resolve().parents[3]
_REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?")
_LOCKED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_CLAUSE = re.compile(r"(==|!=|>=|<=|~=|>|<)\s*([^\s,]+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package, and what its version must be as ``>=1.2,<2``. ``always``: whatever the platform and the extras."""

    name: str
    range: str
    always: bool = True

    def admits(self, version: str) -> bool:
        """Return whether ``version`` is in the range; of two releases of the same numbers none is told apart."""
        return all(_holds(version, operator, bound) for operator, bound in _CLAUSE.findall(self.range))


def examine_dependencies(around: Surroundings) -> list[Finding]:
    """Look at every declared package, and in a clone at every locked one."""
    lock = CLONE / "requirements.lock"
    required = declared_requirements()
    installed = {name: _version(name) for name in (requirement.name for requirement in required)}
    found = judge_requirements(required, installed)
    if (CLONE / "pyproject.toml").is_file() and lock.is_file():
        locked = dict(_LOCKED.findall(lock.read_text(encoding="utf-8")))
        found += judge_lock(locked, {name: _version(name) for name in locked})
    if not required:
        remedy = "Install the wheel, which declares them, or run from a clone."
        return [note(Subject.DEPENDENCIES, "the program is not installed as a package: nothing to compare", remedy)]
    return found or [ok(Subject.DEPENDENCIES, f"{len(required)} packages as declared")]


def declared_requirements() -> list[Requirement]:
    """Return what the clone's or the wheel's metadata declares; nothing where there is neither."""
    project = CLONE / "pyproject.toml"
    if project.is_file():
        return parse_requirements(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])
    try:
        return parse_requirements(metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return []


def parse_requirements(lines: Iterable[str]) -> list[Requirement]:
    """Return requirements as metadata writes them (PEP 508); what a marker says is not worked out."""
    found = [match for line in lines if (match := _REQUIREMENT.fullmatch(line.strip())) is not None]
    return [Requirement(match[1], match[2].strip("()"), always=match[3] is None) for match in found]


def judge_requirements(required: Iterable[Requirement], installed: Mapping[str, str | None]) -> list[Finding]:
    """Name what is missing, or not in its range."""
    wrong = []
    for requirement in required:
        version = installed.get(requirement.name)
        if version is None:
            wrong += [f"{requirement.name} is not installed"] if requirement.always else []
        elif not requirement.admits(version):
            wrong.append(f"{requirement.name} {version} is not {requirement.range}")
    if not wrong:
        return []
    remedy = "Install the program anew in an environment of its own, which brings what it declares."
    return [problem(Subject.DEPENDENCIES, _listed(wrong), remedy)]


def judge_lock(locked: Mapping[str, str], installed: Mapping[str, str | None]) -> list[Finding]:
    """Name what is there in another version than the locked one, which is what was tested."""
    other = [
        f"{name} {version}, locked {locked[name]}"
        for name, version in installed.items()
        if version is not None and version != locked[name]
    ]
    if not other:
        return []
    return [note(Subject.DEPENDENCIES, _listed(other), "pip install --require-hashes -r requirements.lock")]


def _holds(version: str, operator: str, bound: str) -> bool:
    found, given = release_of(version), release_of(bound)
    if operator == "~=":
        return found >= given and found[: len(given) - 1] == given[:-1]
    if operator in ("==", "!="):
        same = version == bound or (bound.endswith(".*") and found[: len(given)] == given)
        return same is (operator == "==")
    width = max(len(found), len(given))
    found, given = (numbers + (0,) * (width - len(numbers)) for numbers in (found, given))
    return {">=": found >= given, "<=": found <= given, ">": found > given, "<": found < given}[operator]


def _listed(lines: list[str]) -> str:
    more = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
