"""Puts back what was there before a run."""

from __future__ import annotations

from hx_gateway.wiring.backups import Backups
from hx_gateway.wiring.files import FileProblem, check_possible
from hx_gateway.wiring.layout import Layout
from hx_gateway.wiring.plan import Part
from hx_gateway.wiring.report import Step

_WORDS = {"absent": "removed", "file": "as it was", "link": "as it was", "folder": "as it was"}


def plan_restore(layout: Layout, stamp: str) -> list[Part]:
    """Return the parts that make everything as it was before the run of ``stamp``. Raises ``FileProblem``."""
    parts = []
    for change in Backups(layout).as_before(stamp):
        part = Part(layout.name_of(change.path), [change], _WORDS[change.after.kind])
        try:
            check_possible(change)
        except FileProblem as problem:
            part.problem = Step(part.name, "fail", str(problem), problem.remedy)
        parts.append(part)
    return parts
