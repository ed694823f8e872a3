"""What came of each step, and what to do about those that failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["pass", "fail", "skip", "note"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``detail`` says what was done or seen; ``remedy`` what to do about a failure."""

    name: str
    outcome: Outcome
    detail: str = ""
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """All steps of a run. ``changed`` are paths; ``stamp`` is that of their backup; ``diff`` shows no secret."""

    command: str
    steps: list[Step] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    stamp: str | None = None
    diff: str = ""

    @property
    def ok(self) -> bool:
        """Whether no step failed."""
        return all(step.outcome != "fail" for step in self.steps)

    def add(self, name: str, outcome: Outcome, detail: str = "", remedy: str = "") -> None:
        """Add a step."""
        self.steps.append(Step(name, outcome, detail, remedy))
