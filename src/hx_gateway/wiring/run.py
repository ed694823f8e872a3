"""Carries a plan out: backup, changes, probes, restarts; a step that fails ends what depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from hx_gateway.wiring.backups import Backups
from hx_gateway.wiring.env_file import EnvFileProblem, value_of, variables
from hx_gateway.wiring.files import Change, FileProblem, apply, look, text_of
from hx_gateway.wiring.inputs import Stores
from hx_gateway.wiring.layout import CORE_UNIT, WRAPPER_UNIT, Layout
from hx_gateway.wiring.masking import Mask, credentials_in, masked_diff
from hx_gateway.wiring.plan import Part
from hx_gateway.wiring.report import Report, Step
from hx_gateway.wiring.systemd import Systemd
from hx_gateway.wiring.unit_steps import CORE_PORT, WRAPPER_PORT, restart_units, skip_units

UNCHANGED = "unchanged"
NOT_REACHED = "a step before failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command on an installation. ``stores`` are probed before anything restarts, where there are any."""

    command: str
    layout: Layout
    systemd: Systemd
    stores: Stores | None = None
    probe: Callable[[Stores], list[Step]] | None = None
    dry_run: bool = False

    def carry_out(self, plan: Callable[[], Sequence[Part]]) -> Report:
        """Make the plan and carry it out, alone. Nothing is changed where a part of the plan has a problem."""
        report = Report(self.command)
        known = self._known_secrets()
        try:
            self._files(report, plan)
        except FileProblem as problem:
            report.add("backup", "fail", str(problem), problem.remedy)
        if not self.dry_run:
            self._probe(report)
            # The units may log what they knew until now, or what they know from now on.
            self._restart(report, Mask([*known, *self._known_secrets()]))
        return report

    def _files(self, report: Report, plan: Callable[[], Sequence[Part]]) -> None:
        parts = plan()
        if _problems(report, parts):
            return
        if self.dry_run:
            self._show(report, parts)
        elif any(part.changes for part in parts):
            backups = Backups(self.layout)
            with backups.held():
                # Somebody else may have been at it until now.
                self._change(report, backups, plan())
        else:
            self._change(report, Backups(self.layout), parts)

    def _show(self, report: Report, parts: Sequence[Part]) -> None:
        diffs = []
        for part in parts:
            report.add(part.name, "pass", f"would be done: {part.detail}" if part.changes else UNCHANGED)
            _tell(report, part)
            diffs += [
                self._diff(change) for change in part.changes if "file" in (change.before.kind, change.after.kind)
            ]
        report.diff = "\n".join(diffs)

    def _diff(self, change: Change) -> str:
        name = self.layout.name_of(change.path)
        before, after = text_of(change.path, change.before), text_of(change.path, change.after)
        return masked_diff(name, before, after, ours=change.path.suffix == ".conf")

    def _change(self, report: Report, backups: Backups, parts: Sequence[Part]) -> None:
        if _problems(report, parts):
            return
        changes = list({change.path: change for part in parts for change in part.changes}.values())
        if changes:
            report.stamp = backups.keep(self.command, changes, datetime.now(UTC))
        done: set[object] = set()
        for part in parts:
            if not report.ok:
                report.add(part.name, "skip", NOT_REACHED)
                continue
            try:
                for change in part.changes:
                    if change.path not in done:
                        apply(change)
                        done.add(change.path)
                        report.changed.append(self.layout.name_of(change.path))
            except FileProblem as problem:
                report.add(part.name, "fail", str(problem), problem.remedy)
                continue
            report.add(part.name, "pass", part.detail if part.changes else UNCHANGED)
            _tell(report, part)

    def _probe(self, report: Report) -> None:
        if self.stores is None:
            return
        if self.probe is None or not report.ok:
            why = NOT_REACHED if self.probe is not None else "not asked to"
            report.steps += [Step(name, "skip", why) for name in ("PostgreSQL", "Redis", "Qdrant")]
            return
        report.steps += self.probe(self.stores)

    def _restart(self, report: Report, mask: Mask) -> None:
        absence = self.systemd.absence(self.layout)
        if absence is not None or not report.ok:
            skip_units(report, absence or NOT_REACHED)
            return
        restart_units(report, self.layout, self.systemd, mask, {CORE_UNIT: CORE_PORT, WRAPPER_UNIT: self._port()})

    def _port(self) -> int:
        path = self.layout.at(self.layout.settings)
        try:
            port = value_of(text_of(path, look(path)), "WRAPPER_PORT") or ""
        except (FileProblem, EnvFileProblem):
            port = ""
        return int(port) if port.isascii() and port.isdigit() else WRAPPER_PORT

    def _known_secrets(self) -> list[str]:
        """Return everything secret that was given, or stands in the file of secrets."""
        known = list(self.stores.secrets) if self.stores is not None else []
        path = self.layout.at(self.layout.secrets)
        with suppress(FileProblem, EnvFileProblem):
            known += [form for found in variables(text_of(path, look(path))) for form in credentials_in(found.value)]
        return [value for value in known if value.lower() not in ("true", "false", "none")]


def _problems(report: Report, parts: Sequence[Part]) -> bool:
    found = [part for part in parts if part.problem is not None]
    for part in parts:
        if part.problem is not None:
            report.steps.append(part.problem)
        elif found:
            report.add(part.name, "skip", "nothing was changed: another step cannot be done")
    return bool(found)


def _tell(report: Report, part: Part) -> None:
    for note in part.notes:
        report.add(part.name, "note", note)
