"""``hx-gateway smoke`` and its script against running gateways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.cli.smoke_checks import ADMIN_ROUTES
from tests.fixtures.gateway import Gateway

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPT = "scripts/tests/gateway/db_cache_qdrant_smoke.sh"
# The clone's own, as it stands there: the script looks for it.
PROGRAM = REPOSITORY / ".venv/bin/hx-gateway"
NEEDS_PROGRAM = pytest.mark.skipif(
    not os.access(PROGRAM, os.X_OK), reason="the clone's environment belongs to another account"
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Gateway]:
    """Run a gateway as ``make run`` does, with the database that it brings."""
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        Path(directory).chmod(0o755)
        gateway = Gateway({}, Path(directory)).start()
        gateway.wait_until(lambda: gateway.get("/v1/keys", key=gateway.key).status == 200)
        yield gateway
        gateway.stop()


def smoke(gateway: Gateway, *options: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**gateway.environ, "HX_ADMIN_KEY": gateway.key}
    command = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, *options]
    return subprocess.run(command, env=environ, capture_output=True, check=False)


def keys_of(gateway: Gateway) -> list[dict[str, Any]]:
    found = gateway.get("/v1/keys?include_deleted=true", key=gateway.key).json()["data"]
    return [key for key in found if key["name"] == "smoke test"]


def test_a_gateway_with_a_database_passes_and_keeps_no_key(whole: Gateway) -> None:
    done = smoke(whole, "--json")
    assert done.returncode == 0, done.stdout.decode()
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert {check["outcome"] for check in result["checks"]} == {"pass"}
    names = {check["name"] for check in result["checks"]}
    whose = ("200 with the admin key", "401 without a key", "403 with a member's key")
    assert {f"GET {path}: {who}" for path in ADMIN_ROUTES for who in whose} <= names
    assert [key["deleted_at"] is not None for key in keys_of(whole)] == [True]


def test_a_line_is_a_check_and_a_failure_shows_and_keeps_no_key(whole: Gateway) -> None:
    wrong = smoke(whole, "--embedding-length", "3")
    assert wrong.returncode == 1
    lines = wrong.stdout.decode().splitlines()
    assert sum(line.startswith(("pass  ", "fail  ")) for line in lines) == 10 + 3 * len(ADMIN_ROUTES)
    assert lines[-1] == f"{9 + 3 * len(ADMIN_ROUTES)} passed, 1 failed, 0 skipped"
    assert "      384 numbers, not 3" in lines
    assert b"sk-hx-" not in wrong.stdout + wrong.stderr
    assert all(key["deleted_at"] is not None for key in keys_of(whole))


def test_a_gateway_without_a_database_fails_unless_that_is_said(gateway: Gateway) -> None:
    failed = smoke(gateway)
    assert failed.returncode == 1
    assert b"status 501, not 200" in failed.stdout
    told = smoke(gateway, "--no-database")
    assert told.returncode == 0, told.stdout.decode()
    assert b"skip  admin routes" in told.stdout


def test_an_address_where_nobody_is_fails(gateway: Gateway) -> None:
    nobody = smoke(gateway, "--url", "http://127.0.0.1:1")
    assert nobody.returncode == 1
    assert b"nothing listens there" in nobody.stdout


@NEEDS_PROGRAM
def test_the_script_works_from_a_clone_wherever_it_is_called(gateway: Gateway, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HX_ADMIN_KEY": gateway.key}
    command = [str(REPOSITORY / SCRIPT), "--url", gateway.url, "--no-database"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"0 failed" in done.stdout


@NEEDS_PROGRAM
def test_the_script_works_where_only_the_program_is_installed(gateway: Gateway, tmp_path: Path) -> None:
    script = tmp_path / SCRIPT
    script.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / SCRIPT, script)
    environ = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HX_ADMIN_KEY": gateway.key}
    command = [str(script), "--url", gateway.url, "--no-database"]
    done = subprocess.run(command, cwd="/", env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    environ["PATH"] = "/usr/bin:/bin"
    assert subprocess.run(command, cwd="/", env=environ, capture_output=True, check=False).returncode == 127
