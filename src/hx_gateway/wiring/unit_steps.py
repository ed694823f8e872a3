"""The steps after the files: systemd reads its units anew, the core restarts, then the wrapper; both are looked at."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from hx_gateway.wiring.layout import CACHE_DROP_IN, CORE_UNIT, DATABASE_DROP_IN, UNITS, Layout
from hx_gateway.wiring.masking import Mask
from hx_gateway.wiring.report import Report
from hx_gateway.wiring.systemd import Systemd, SystemdProblem, newest_change

SETTLE_SECONDS = 5.0
PORT_SECONDS = 60.0
LOOK_SECONDS = 0.25
CORE_PORT, WRAPPER_PORT = 4000, 4010
RELOAD = "daemon-reload"


def skip_units(report: Report, why: str) -> None:
    """Report every step of the units as not done."""
    for name in (RELOAD, *(f"restart {unit}" for unit in UNITS)):
        report.add(name, "skip", why)


def restart_units(report: Report, layout: Layout, systemd: Systemd, mask: Mask, ports: Mapping[str, int]) -> None:
    """Restart the units that run with less than what the files say now, also where an earlier run did not get to it."""
    newest = newest_change(
        [
            *(layout.at(path) for path in (layout.config, layout.secrets, layout.settings)),
            *(layout.at(layout.drop_in(unit, name)) for unit in UNITS for name in (DATABASE_DROP_IN, CACHE_DROP_IN)),
            *(layout.at(layout.drop_in(unit, DATABASE_DROP_IN)).parent for unit in UNITS),
        ]
    )
    try:
        old = [unit for unit in UNITS if systemd.state(unit).started_at < newest or report.changed]
        if not old:
            skip_units(report, "both run with what the files say")
            return
        systemd.reload()
    except SystemdProblem as problem:
        report.add(RELOAD, "fail", mask.hide(str(problem)), "Run this as root.")
        for unit in UNITS:
            report.add(f"restart {unit}", "skip", f"{RELOAD} failed")
        return
    report.add(RELOAD, "pass")
    for unit in UNITS:
        if not report.ok:
            report.add(f"restart {unit}", "skip", f"{CORE_UNIT} failed")
        elif unit not in old:
            report.add(f"restart {unit}", "skip", "it runs with what the files say")
        else:
            _restart(report, systemd, unit, mask, ports[unit])


def _restart(report: Report, systemd: Systemd, unit: str, mask: Mask, port: int) -> None:
    name = f"restart {unit}"
    try:
        if not systemd.state(unit).installed:
            report.add(name, "fail", f"there is no unit {unit}.service", "Install it, then run this again.")
            return
        systemd.restart(unit)
        restarts = systemd.state(unit).restarts
        time.sleep(SETTLE_SECONDS)
        state = systemd.state(unit)
        if not state.active or state.restarts != restarts:
            raise SystemdProblem("it does not stay active")
        if not _answers(port):
            raise SystemdProblem(f"nothing answers on port {port} within {PORT_SECONDS:g} s")
    except SystemdProblem as problem:
        detail = f"{problem}\n{_journal(systemd, unit)}".rstrip()
        remedy = f"See what it logged, correct that, and run this again. Back to before: --restore {report.stamp}."
        report.add(name, "fail", mask.hide(detail), remedy if report.stamp else remedy.partition(" Back")[0])
        return
    report.add(name, "pass", f"active, port {port} answers")


def _answers(port: int) -> bool:
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)


def _journal(systemd: Systemd, unit: str) -> str:
    try:
        return systemd.journal(unit)
    except SystemdProblem as problem:
        return f"(its journal cannot be read: {problem})"
