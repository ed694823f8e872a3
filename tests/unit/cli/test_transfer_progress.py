"""How far a transfer is: a bar where somebody looks, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hx_gateway.cli.transfer_progress import bytes_text, watching
from hx_gateway.db.transfer.contents import Figures, Table

TABLES = (Table("hx_gateway", "teams", (), rows=10), Table("hx_gateway", "users", (), rows=0))


def shown(console: Console) -> str:
    with watching(console) as watch:
        watch.plan(TABLES)
        for phase in ("copying", "checking"):
            for table, rows in zip(TABLES, (4, 1500), strict=True):
                watch.begin(phase, table)
                watch.advance(rows // 2, rows * 50)
                watch.end(Figures(rows, rows * 100, ""))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_elsewhere_each_table_with_rows_is_a_line() -> None:
    assert shown(Console(file=io.StringIO(), width=40)).splitlines() == [
        "copying hx_gateway.teams: 4 rows, 400 bytes",
        "copying hx_gateway.users: 1,500 rows, 150.0 kB",
        "checking hx_gateway.teams: 4 rows, 400 bytes",
        "checking hx_gateway.users: 1,500 rows, 150.0 kB",
    ]


def test_on_a_terminal_there_is_a_bar_that_ends_full_whatever_the_estimate_was() -> None:
    lines = shown(Console(file=io.StringIO(), width=120, force_terminal=True)).splitlines()
    for phase in ("copying", "checking"):
        last = [line for line in lines if phase in line][-1]
        assert "1,504 of 1,504 rows, 150.4 kB" in last


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1_500, "1.5 kB"), (2_000_000, "2.0 MB"), (7e9, "7.0 GB")])
def test_sizes_are_short(size: float, text: str) -> None:
    assert bytes_text(int(size)) == text
