"""Versions of servers: which texts are one, and which of several is the latest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

LATEST = "latest"
MAX_VERSION_CHARS = 255
# What a service is said to be that has no version, or one that is not a version here.
UNKNOWN_VERSION = "0.0.0"
# Python and PostgreSQL read it alike. No characters that a URL's path could be taken to mean something else by, nor
# those that ranges are written with; "latest" and "1.x" are made of the others.
VERSION_PATTERN = (
    r"^(?!(?:[vV]?(?:[0-9]+\.)*[xX](?:\.[xX0-9]+)*|[lL][aA][tT][eE][sS][tT])$)"
    r"[A-Za-z0-9][A-Za-z0-9._+!:@-]*$"
)
_VERSION = re.compile(VERSION_PATTERN)
_RANGE = re.compile(r"^\s*[\^~<>=]|\|\||\s-\s|^[vV]?(?:\d+\.)*[xX*](?:\.[xX*\d]+)*$")
_SEMVER = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?:-([A-Za-z0-9.-]+))?")

Rank = tuple[bool, tuple[int, int, int], bool, str, datetime, str]
T = TypeVar("T")


def is_range(version: str) -> bool:
    """Return whether it names several versions, as ``^1.2``, ``>=1``, ``1.x``, ``1 - 2`` and ``1 || 2`` do."""
    return _RANGE.search(version) is not None


def version_problem(version: str) -> str | None:
    """Return why a text is not the version of a server: the rest of a sentence that begins with what it is."""
    if not 1 <= len(version) <= MAX_VERSION_CHARS:
        return f"must have 1 to {MAX_VERSION_CHARS} characters, not {len(version)}"
    if version.lower() == LATEST:
        return "must be a version: 'latest' is what the newest one is asked for by"
    if is_range(version):
        return f"must be one version, not a range as {version[:60]!r}"
    if _VERSION.fullmatch(version) is None:
        return "must begin with a letter or a digit, and hold only letters, digits and the characters . _ + ! : @ -"
    return None


def rank(version: str, published_at: datetime) -> Rank:
    """Return what versions of one server are ordered by, the latest last.

    As the official registry does: those of the form of a semantic version come after all others, and among themselves
    by their numbers, a release after what came before it; the letters after the dash are compared as texts. All others
    come in the order they were published in.
    """
    semver = _SEMVER.fullmatch(version)
    if semver is None:
        return False, (0, 0, 0), False, "", published_at, version
    major, minor, patch, before = semver.groups()
    return True, (int(major), int(minor), int(patch)), before is None, before or "", published_at, version


def latest_of(versions: Iterable[tuple[Rank, bool, T]]) -> T | None:
    """Return what came with the latest version: of those that are not deleted, if there is any.

    Each is its rank, whether it is deleted, and what is to be returned; ``None`` for none at all.
    """
    best = max(versions, key=lambda each: (not each[1], each[0]), default=None)
    return None if best is None else best[2]
