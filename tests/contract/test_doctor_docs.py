"""The page of the doctor has every finding that there can be, and the thresholds that are in force."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime

from hx_gateway.doctor import clock, disk, examination, findings, open_files, pools, redis, versions
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
from tests.contract.doc_pages import ROOT, read, rows, spans

PAGE = read("reference/doctor.md")
ROW = re.compile(r"^\| `([\w ]+)` \| (problem|note) \| (.+?) \| (.+?) \|$", re.MULTILINE)
# What each of the functions that make findings makes.
MAKERS = {
    "note": ("note",),
    "problem": ("problem",),
    "unreachable": ("problem",),
    "judge_server": ("note", "problem"),
}


def made() -> set[tuple[str, str]]:
    """Return the pairs of subject and state, other than ok, that the code makes."""
    found = set()
    for path in (ROOT / "src/hx_gateway/doctor").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
                continue
            subject = call.args[0]
            if isinstance(subject, ast.Attribute) and ast.unparse(subject.value) == "Subject":
                states = MAKERS.get(call.func.id, ())
                found |= {(findings.Subject[subject.attr].value, state) for state in states}
    return found


def test_every_finding_is_documented_with_what_to_do() -> None:
    documented = {(subject, state): (when, remedy) for subject, state, when, remedy in ROW.findall(PAGE)}
    assert documented.keys() == made()
    assert {subject for subject, _ in documented} == set(findings.Subject)
    assert all(when and remedy for when, remedy in documented.values())


def test_the_thresholds_are_those_in_force() -> None:
    documented = dict(rows(PAGE, "| what | value |"))

    def percent(share: float) -> str:
        return f"{share * 100:.0f} %"

    names = ("PostgreSQL", "Redis", "Valkey", "Qdrant")
    servers = (".".join(map(str, versions.OLDEST_SERVERS[name])) for name in names)
    earliest = datetime.fromtimestamp(clock.EARLIEST, UTC).date()
    assert documented == {
        "free space that is a problem": f"below {disk.LOW_BYTES // disk.GIB} GiB or {percent(disk.LOW_SHARE)}",
        "free space that is a note": f"below {disk.SCARCE_BYTES // disk.GIB} GiB or {percent(disk.SCARCE_SHARE)}",
        "free inodes that are a problem, a note": f"below {percent(disk.LOW_INODES)}, {percent(disk.SCARCE_INODES)}",
        "clocks apart that are a note, a problem": (f"more than {clock.NOTED_SECONDS:g} s, {clock.WRONG_SECONDS:g} s"),
        "earliest time that a clock may show": f"{earliest}, and the time the program was installed",
        "used part of Redis's `maxmemory` that is a problem": percent(redis.FULL_SHARE),
        "open files beside connections": f"{open_files.OTHER_FILES}, and {open_files.LEAST_FOR_CALLS} for calls",
        "connections left to others in PostgreSQL": str(pools.RESERVED_CONNECTIONS),
        "oldest Python, newest it was made for": "3.11, 3.14",
        "oldest PostgreSQL, Redis, Valkey, Qdrant": ", ".join(servers),
        "LiteLLM that the gateway is tested with": LITELLM_VERSION,
    }
    assert (versions.OLDEST_PYTHON, versions.NEWEST_PYTHON) == ((3, 11), (3, 14))
    assert f"each for {examination.CHECK_SECONDS:g} s at most" in PAGE


def test_the_file_systems_that_are_named_are_those_looked_for() -> None:
    when = next(when for subject, state, when, _ in ROW.findall(PAGE) if (subject, state) == ("disk", "problem"))
    named = set(spans(when))
    assert named & disk.IN_MEMORY
    assert named & disk.OVER_NETWORK
    assert named - disk.IN_MEMORY - disk.OVER_NETWORK == {"HX_JOURNAL_MIN_FREE_BYTES", "memory", "fsync"}
