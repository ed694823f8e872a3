"""How the registry finds out how its services are: probes, what follows from them, and who takes turns at it."""

from hx_gateway.registry.probing.beats import Beat, Described
from hx_gateway.registry.probing.judgement import AdminState
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, Verdict
from hx_gateway.registry.probing.prober import Prober
from hx_gateway.registry.probing.repository import ProbedItems, ProbeRepository, overdue_seconds
from hx_gateway.registry.probing.series import SeriesMetric, series, slower_because
from hx_gateway.registry.probing.state import HealthPeriod, HealthState
from hx_gateway.registry.probing.stdio_probe import StdioCommand

__all__ = [
    "AdminState",
    "Beat",
    "Described",
    "FailureClass",
    "HealthPeriod",
    "HealthState",
    "Level",
    "ProbeOutcome",
    "ProbeRepository",
    "ProbedItems",
    "Prober",
    "SeriesMetric",
    "StdioCommand",
    "Verdict",
    "overdue_seconds",
    "series",
    "slower_because",
]
