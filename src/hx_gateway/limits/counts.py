"""What a meter did since it was made, for metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from hx_gateway.limits.model import Outcome


@dataclass(slots=True)
class MeterCounts:
    """``refused`` by outcome. ``rate_fallbacks``: rates that this process counted by itself because Redis was away.

    ``overrun_nano``: by how much calls cost more than was reserved for them.
    """

    admitted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    shadow_refusals: int = 0
    rate_fallbacks: int = 0
    lost_answers: int = 0
    budget_unavailable: int = 0
    overrun_nano: int = 0

    def refuse(self, outcome: Outcome) -> None:
        """Count a refusal."""
        self.refused[str(outcome)] = self.refused.get(str(outcome), 0) + 1
