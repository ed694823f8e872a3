"""The units of the project and the drop-ins of wiring give the gateway together what it starts with."""

from __future__ import annotations

import pytest
from dotenv import dotenv_values

from hx_gateway.settings import LoadedSettings, SettingsError, load_settings
from tests.acceptance.wiring.staging import SECRETS, SETTINGS, Tree
from tests.contract.doc_pages import ROOT
from tests.fixtures.unit_sandbox import directives

UNIT = "hx-gateway-ml.service"


@pytest.fixture
def host(tree: Tree) -> Tree:
    for path in sorted((ROOT / "deploy/systemd").glob("*.service")):
        tree.write(f"etc/systemd/system/{path.name}", path.read_text())
    return tree


def environment(tree: Tree) -> dict[str, str]:
    """Return the wrapper's environment as systemd makes it: files after variables, drop-ins after the unit."""
    folder = tree.path("etc/systemd/system")
    files = [folder / UNIT, *sorted((folder / f"{UNIT}.d").glob("*.conf"))]
    read = [directives(path.read_text()) for path in files]
    pairs = [entry.strip('"').partition("=") for unit in read for entry in unit.get("Environment", [])]
    given = {name: value for name, _, value in pairs}
    for name in (entry for unit in read for entry in unit.get("EnvironmentFile", [])):
        path = tree.path(name.removeprefix("-").lstrip("/"))
        if name.startswith("-") and not path.exists():
            continue
        lines = path.read_text()
        assert "'" not in lines, "systemd and dotenv read the same where nothing is quoted"
        given |= {key: value or "" for key, value in dotenv_values(path, interpolate=False).items()}
    # The paths of the host are below the tree here.
    return given | {"HX_ENV_FILE": f"-{tree.path(given['HX_ENV_FILE'].removeprefix('-').lstrip('/'))}"}


def started(tree: Tree) -> LoadedSettings:
    return load_settings(environment(tree))


def test_a_host_that_nobody_wired_runs_on_embedded_stores(host: Tree) -> None:
    loaded = started(host)
    assert loaded.warnings == ()
    assert (loaded.settings.embedded, loaded.settings.pg_url, loaded.settings.host) == (True, None, "0.0.0.0")


def test_a_wired_host_runs_on_its_stores(host: Tree) -> None:
    assert host.wire("--cache").exit_code == 0
    loaded = started(host)
    assert loaded.warnings == ()
    assert not loaded.settings.embedded
    assert loaded.settings.pg_url is not None
    assert "db.example.org" in loaded.settings.pg_url.get_secret_value()
    assert loaded.settings.default_key_rpm == 60


@pytest.mark.parametrize("name", [SECRETS, SETTINGS])
def test_a_wired_host_that_lost_a_file_does_not_start(host: Tree, name: str) -> None:
    host.wire()
    host.path(name).unlink()
    with pytest.raises(FileNotFoundError):
        started(host)


def test_a_wired_host_does_not_start_with_secrets_that_everybody_may_read(host: Tree) -> None:
    host.wire()
    host.path(SECRETS).chmod(0o644)
    with pytest.raises(SettingsError, match="holds DATABASE_URL, and everybody on this machine may read"):
        started(host)


def test_an_unwired_host_runs_on_embedded_stores_again(host: Tree) -> None:
    host.wire()
    with host.path(SECRETS).open("a") as file:
        file.write("HX_ADMIN_KEY=a-long-admin-key-for-tests-0123456789\n")
    assert host.unwire().exit_code == 0
    loaded = started(host)
    assert (loaded.settings.embedded, loaded.settings.pg_url) == (True, None)
    assert loaded.settings.admin_key is not None
    assert loaded.settings.litellm_base_url == "http://127.0.0.1:4000"
