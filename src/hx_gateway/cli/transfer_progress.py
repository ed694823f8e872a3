"""How far a backup, a restore or a move is: a bar where somebody looks, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hx_gateway.db.transfer.contents import Figures, Table, Watch

_SIZES = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))


@contextmanager
def watching(console: Console | None = None) -> Iterator[Watch]:
    """Give who is told how far it is, and shows it on standard error."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows, {task.fields[size]}  {task.fields[table]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


def rows_text(rows: int) -> str:
    """Return a number of rows as ``1,234 rows``."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def bytes_text(size: int) -> str:
    """Return a size as ``1.5 MB``."""
    for unit, name in _SIZES:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


class _Lines:
    """A line for each table that has rows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._doing = ""

    def plan(self, tables: Sequence[Table]) -> None:
        """Nothing is said before there is something."""

    def begin(self, phase: str, table: Table) -> None:
        self._doing = f"{phase} {table.label}"

    def advance(self, rows: int, size: int) -> None:
        """Nothing is said in between."""

    def end(self, figures: Figures) -> None:
        if figures.rows:
            line = f"{self._doing}: {rows_text(figures.rows)}, {bytes_text(figures.size)}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class _Bar:
    """A bar for each phase. Its whole is the planner's estimate, put right by each table that is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._estimate = 0
        self._tasks: dict[str, TaskID] = {}
        self._done = {"rows": 0, "size": 0}
        self._expected = 0
        self._current: TaskID | None = None

    def plan(self, tables: Sequence[Table]) -> None:
        self._estimate = sum(table.rows for table in tables)

    def begin(self, phase: str, table: Table) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=self._estimate, size="", table="")
            self._done = {"rows": 0, "size": 0}
        self._current = self._tasks[phase]
        self._expected = table.rows
        self._progress.update(self._current, table=table.label)

    def advance(self, rows: int, size: int) -> None:
        self._show(rows, size)

    def end(self, figures: Figures) -> None:
        assert self._current is not None
        total = (self._progress.tasks[self._current].total or 0) + figures.rows - self._expected
        self._progress.update(self._current, total=total)
        self._show(figures.rows, figures.size)
        self._done["rows"] += figures.rows
        self._done["size"] += figures.size

    def _show(self, rows: int, size: int) -> None:
        assert self._current is not None
        completed, text = self._done["rows"] + rows, bytes_text(self._done["size"] + size)
        self._progress.update(self._current, completed=completed, size=text)
