"""Servers of our own: looked at while they run and while they do not, and never started for that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hx_gateway.doctor.disk import DATABASE, examine_disk
from hx_gateway.doctor.findings import Finding, Surroundings
from hx_gateway.doctor.permissions import examine_permissions
from hx_gateway.doctor.postgres import examine_postgres
from hx_gateway.doctor.redis import examine_redis
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.embedded.valkey import EmbeddedValkey
from hx_gateway.settings import Settings
from hx_gateway.wiring.layout import Layout


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Give a folder that other accounts may pass, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="hx-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def around(data_dir: Path, workers: int = 1) -> Surroundings:
    settings = Settings.model_validate({"HX_DATA_DIR": str(data_dir), "HX_WORKERS": str(workers)})
    return Surroundings(settings=settings, layout=Layout(data_dir))


def said(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {finding.subject: (finding.state, finding.detail) for finding in findings}


async def test_our_postgresql_before_during_and_after_it_runs(data_dir: Path) -> None:
    here = around(data_dir)
    assert said(await examine_postgres(here)) == {"PostgreSQL": ("ok", "embedded, PostgreSQL 18, not made yet")}
    assert list(data_dir.iterdir()) == []
    server = EmbeddedPostgres(data_dir / "postgres", notify=lambda _line: None)
    server.start()
    try:
        running = said(await examine_postgres(here))
    finally:
        server.stop()
    assert running["PostgreSQL"][1].startswith("PostgreSQL 18.")
    assert running["PostgreSQL"][1].endswith(" embedded")
    assert {subject: state for subject, (state, _) in running.items()} == {
        "PostgreSQL": "ok", "pools": "ok", "clock": "ok", "schema": "note"
    }  # fmt: skip
    assert said(await examine_postgres(here)) == {"PostgreSQL": ("ok", "embedded, PostgreSQL 18, not running")}
    assert DATABASE in examine_disk(here)[0].detail
    assert said(examine_permissions(here))["permissions"][0] == "ok"
    (data_dir / "postgres" / "credentials.json").chmod(0o644)
    assert said(examine_permissions(here))["permissions"][0] == "problem"
    (data_dir / "postgres" / "cluster" / "PG_VERSION").write_text("17\n")
    state, detail = said(await examine_postgres(here))["PostgreSQL"]
    assert (state, detail) == ("problem", "the embedded cluster is of PostgreSQL 17, its programs are of 18")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_folder_of_another_account_is_told_with_whom_to_look_as(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir()
    data_dir.chmod(0o700)
    os.seteuid(65534)
    try:
        state, detail = said(await examine_postgres(around(data_dir)))["PostgreSQL"]
    finally:
        os.seteuid(0)
    assert (state, "look with its owner's account" in detail) == ("problem", True)


async def test_a_host_that_cannot_run_one_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wheel() -> Path:
        raise EmbeddedError("made up: set PG_URL.")

    monkeypatch.setattr("hx_gateway.doctor.embedded.find_installation", no_wheel)
    assert said(await examine_postgres(around(data_dir)))["PostgreSQL"] == ("problem", "made up: set PG_URL.")


async def test_our_valkey_is_asked_while_it_runs(data_dir: Path) -> None:
    here = around(data_dir, workers=2)
    server = EmbeddedValkey(data_dir / "valkey", notify=lambda _line: None)
    server.start()
    try:
        running = await examine_redis(here)
    finally:
        server.stop()
    assert {finding.subject: finding.state for finding in running} == {
        "Redis": "ok",
        "Redis memory": "ok",
        "clock": "ok",
    }
    assert running[0].detail.endswith(" embedded")
    assert said(await examine_redis(here))["Redis"][1].endswith("embedded, not running")
