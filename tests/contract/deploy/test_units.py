"""The unit files: valid, closed, and of one mind with wiring, with the settings and with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hx_gateway.cli.start import EX_CONFIG
from hx_gateway.cli.wiring_output import SERVICE_ACCOUNT
from hx_gateway.setting_sources import is_secret
from hx_gateway.wiring.drop_ins import cache_drop_in, database_drop_in
from hx_gateway.wiring.layout import CACHE_DROP_IN, CORE_UNIT, DATABASE_DROP_IN, UNITS, WRAPPER_UNIT, Layout
from hx_gateway.wiring.unit_steps import CORE_PORT
from tests.contract.deploy.program import LONGEST_STOP_SECONDS, VARIABLES
from tests.contract.doc_pages import ROOT
from tests.fixtures.unit_sandbox import directives

FOLDER = ROOT / "deploy" / "systemd"
LAYOUT = Layout(Path("/"))
# Ten times what systemd-analyze prints: 0 is closed, 100 is open.
MOST_EXPOSED = "15"
STAND_INS = ("sysinit", "basic", "shutdown", "multi-user", "network-online")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def unit(name: str) -> dict[str, list[str]]:
    return directives((FOLDER / f"{name}.service").read_text())


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a host's root with the units, and with stand-ins for the programs and targets that they name."""
    shutil.copytree(FOLDER, tmp_path / "etc/systemd/system")
    targets = tmp_path / "usr/lib/systemd/system"
    targets.mkdir(parents=True)
    for name in STAND_INS:
        (targets / f"{name}.target").write_text("[Unit]\nDescription=A stand-in\n")
    for name in UNITS:
        program = tmp_path / unit(name)["ExecStart"][0].split()[0].lstrip("/")
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


@needs_systemd
def test_the_units_and_drop_ins_are_valid(tree: Path) -> None:
    example = tree / f"etc/systemd/system/{WRAPPER_UNIT}.service.d/50-credentials.conf.example"
    example.rename(example.with_suffix(""))
    done = analyze("verify", f"--root={tree}", "--man=no", *(f"{name}.service" for name in UNITS))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_may_do_little(name: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(FOLDER / f"{name}.service"))
    assert done.returncode == 0, done.stdout


def test_the_files_are_named_as_wiring_names_them() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {f"{name}.service" for name in UNITS} | {f"{name}.service.d" for name in UNITS}


@pytest.mark.parametrize("name", UNITS)
def test_the_drop_ins_are_those_that_wiring_writes(name: str) -> None:
    folder = FOLDER / f"{name}.service.d"
    assert (folder / DATABASE_DROP_IN).read_text() == database_drop_in(LAYOUT, name)
    assert (folder / CACHE_DROP_IN).read_text() == cache_drop_in()


def test_an_unwired_unit_reads_the_same_files_where_they_are() -> None:
    settings, secrets = str(LAYOUT.settings), str(LAYOUT.secrets)
    wrapper, core = unit(WRAPPER_UNIT), unit(CORE_UNIT)
    assert wrapper["EnvironmentFile"] == [f"-{settings}", f"-{secrets}"]
    assert f'"HX_ENV_FILE=-{secrets}"' in wrapper["Environment"]
    assert core["EnvironmentFile"] == [f"-{secrets}"]
    assert f'"CONFIG_FILE_PATH={LAYOUT.config}"' in core["Environment"]


def test_the_core_listens_where_the_wrapper_looks_for_it() -> None:
    assert unit(CORE_UNIT)["ExecStart"][0].endswith(f"--host 127.0.0.1 --port {CORE_PORT}")
    assert f"{CORE_UNIT}.service" in unit(WRAPPER_UNIT)["After"][0].split()


def test_the_units_run_as_the_account_that_wiring_gives_secrets_to() -> None:
    for name in UNITS:
        assert (unit(name)["User"], unit(name)["Group"]) == ([SERVICE_ACCOUNT], [SERVICE_ACCOUNT])


def test_systemd_waits_for_longer_than_a_stop_takes() -> None:
    wrapper = unit(WRAPPER_UNIT)
    assert int(wrapper["TimeoutStopSec"][0]) > LONGEST_STOP_SECONDS
    # A worker that is told by systemd and by its supervisor takes that for "at once".
    assert wrapper["KillMode"] == ["mixed"]


def test_a_wrong_setting_is_not_tried_again() -> None:
    assert unit(WRAPPER_UNIT)["RestartPreventExitStatus"] == [str(EX_CONFIG)]


def test_the_units_name_settings_that_exist_and_no_secret() -> None:
    texts = [path.read_text() for path in FOLDER.rglob("*") if path.is_file()]
    assignments = [
        found for text in texts for found in re.findall(r'^Environment="?(\w+)=([^"\n]*)', text, re.MULTILINE)
    ]
    credentials = {name for text in texts for name in re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE)}
    assert {name for name, _ in assignments if name.startswith(("HX_", "WRAPPER_"))} <= VARIABLES
    assert credentials <= VARIABLES
    assert [name for name, value in assignments if is_secret(name, value)] == []
