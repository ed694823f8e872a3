"""A gateway that was given a weak secret, or a secret that others can read, does not start, and does not repeat it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from hx_gateway.app import build_app
from hx_gateway.cli.start import open_installation
from hx_gateway.settings import SettingsError, load_settings
from tests.fixtures.gateway import ADMIN_KEY, NO_STORES, Gateway

EX_CONFIG = 78
START_SECONDS = 60.0
NO_DATABASE = {"PG_URL": "postgresql://hx:a-password@127.0.0.1:1/nowhere", "REDIS_URL": "none", "QDRANT_URL": "none"}
GOOD = secrets.token_hex(32)


def pepper_file(text: str, mode: int = 0o600) -> Callable[[Path], Mapping[str, str]]:
    """Return what writes a file of peppers and names it in the environment."""

    def write(directory: Path) -> Mapping[str, str]:
        path = directory / "somewhere.json"
        path.write_text(text)
        path.chmod(mode)
        return {"HX_PEPPER_FILE": str(path)}

    return write


def peppers(pepper: str) -> str:
    return json.dumps({"current": "pp-1", "peppers": {"pp-1": pepper}})


def linked(directory: Path) -> Mapping[str, str]:
    environ = pepper_file(peppers(GOOD))(directory)
    link = directory / "link.json"
    link.symlink_to(environ["HX_PEPPER_FILE"])
    return {"HX_PEPPER_FILE": str(link)}


def own_file(text: str) -> Callable[[Path], Mapping[str, str]]:
    """Return what leaves a file of peppers where the gateway keeps its own."""

    def write(directory: Path) -> Mapping[str, str]:
        path = directory / "peppers.json"
        path.write_text(text)
        path.chmod(0o600)
        return {}

    return write


def admin_key(key: str) -> Callable[[Path], Mapping[str, str]]:
    return lambda _directory: {"HX_ADMIN_KEY": key}


def secrets_file(mode: int) -> Callable[[Path], Mapping[str, str]]:
    """Return what writes a file of secrets and names it in the environment."""

    def write(directory: Path) -> Mapping[str, str]:
        path = directory / "gateway.env"
        path.write_text(f"WRAPPER_LOG_LEVEL=INFO\nLITELLM_MASTER_KEY=sk-{GOOD}\n")
        path.chmod(mode)
        return {"HX_ENV_FILE": str(path)}

    return write


WEAK_PEPPER = b"correct-horse-secret-battery-pepper!".hex()
# What is wrong, the words that say so, and what must not be repeated.
CASES: Mapping[str, tuple[Callable[[Path], Mapping[str, str]], str, str]] = {
    "well-known admin key": (admin_key("sk-1234"), "HX_ADMIN_KEY", "sk-1234"),
    "default admin key": (admin_key("changeme"), "HX_ADMIN_KEY", "changeme"),
    "admin key of an example": (admin_key("secret-api-key"), "HX_ADMIN_KEY", "secret-api-key"),
    "empty admin key": (admin_key(""), "HX_ADMIN_KEY", "\0"),
    "admin key of one letter": (admin_key("q" * 40), "HX_ADMIN_KEY", "q" * 40),
    "no pepper": (pepper_file(peppers("")), "too short", "\0"),
    "short pepper": (pepper_file(peppers("c0ffee" * 3)), "too short", "c0ffee"),
    "pepper that is no secret": (pepper_file(peppers(WEAK_PEPPER)), "well known", WEAK_PEPPER),
    "pepper of one letter": (pepper_file(peppers("ab" * 32)), "not random", "ab" * 32),
    "weak pepper of our own": (own_file(peppers("00" * 32)), "not random", "00" * 32),
    "pepper for the world": (pepper_file(peppers(GOOD), 0o644), "chmod 600", GOOD),
    "pepper for a group to change": (pepper_file(peppers(GOOD), 0o660), "chmod 600", GOOD),
    "pepper behind a link": (linked, "HX_PEPPER_FILE", GOOD),
    "no file of peppers": (lambda directory: {"HX_PEPPER_FILE": str(directory / "none")}, "HX_PEPPER_FILE", "\0"),
    "secrets for the world": (secrets_file(0o644), "holds LITELLM_MASTER_KEY, and everybody", GOOD),
    "broken file of peppers": (pepper_file(f'{{"current": "{GOOD}'), "HX_PEPPER_FILE", GOOD),
}


# Started as a whole. The others end at the same place, without a process for each.
AS_PROCESSES = ("well-known admin key", "pepper that is no secret", "pepper for the world", "secrets for the world")


@pytest.mark.parametrize("name", CASES)
def test_a_weak_or_open_secret_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    prepare, words, secret = CASES[name]
    environ = {**NO_DATABASE, "HX_ADMIN_KEY": ADMIN_KEY, "HX_DATA_DIR": str(tmp_path), **prepare(tmp_path)}
    with pytest.raises(SettingsError) as caught:
        build_app(load_settings(environ).settings)
    told = str(caught.value)
    assert words in told
    for hidden in (secret, ADMIN_KEY, "a-password"):
        assert hidden not in told


@pytest.fixture(scope="module")
def endings() -> Iterator[Mapping[str, tuple[int, str]]]:
    """Start some of them beside each other, and wait until each has ended: how, and what it said."""
    with ExitStack() as stack:
        running = {}
        for name in AS_PROCESSES:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hxgw-")))
            environ = Gateway({**NO_DATABASE, **CASES[name][0](directory)}, directory).environ
            command = [sys.executable, "-m", "hx_gateway", "serve"]
            running[name] = subprocess.Popen(
                command, env=environ, cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            stack.callback(running[name].kill)
        said = {name: process.communicate(timeout=START_SECONDS)[0] for name, process in running.items()}
        yield {name: (running[name].returncode, text) for name, text in said.items()}


@pytest.mark.parametrize("name", AS_PROCESSES)
def test_it_does_not_start_and_says_why_in_a_line(endings: Mapping[str, tuple[int, str]], name: str) -> None:
    status, said = endings[name]
    assert status == EX_CONFIG, said
    assert CASES[name][1] in said
    assert len(said.splitlines()) == 1, said
    for hidden in (CASES[name][2], ADMIN_KEY, "a-password"):
        assert hidden not in said


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_an_admin_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "admin.key"
    path.write_text(f"sk-hx-admin-{GOOD}\n")
    path.chmod(mode)
    with pytest.raises(SystemExit) as caught:
        open_installation(load_settings({"HX_DATA_DIR": str(tmp_path)}))
    assert caught.value.code == EX_CONFIG


def test_a_gateway_without_an_admin_key_makes_one_of_its_own(tmp_path: Path) -> None:
    gateway = Gateway(NO_STORES, tmp_path)
    del gateway.environ["HX_ADMIN_KEY"]
    gateway.start()
    try:
        key = (tmp_path / "admin.key").read_text().strip()
        assert len(key) >= 43
        assert [gateway.get("/v1/models", key=shown).status for shown in (None, ADMIN_KEY, "", key)] == [
            401,
            401,
            401,
            200,
        ]
        assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600
    finally:
        gateway.stop()
