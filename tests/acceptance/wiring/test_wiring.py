"""A tree is wired, wired again, unwired and restored, and compared byte for byte."""

from __future__ import annotations

import difflib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml  # type: ignore[import-untyped]
from dotenv import dotenv_values

from hx_gateway.gateway.model_config import load_model_config
from hx_gateway.settings import load_settings
from tests.acceptance.wiring.staging import (
    BACKUPS,
    CANARY,
    CONFIG,
    CORE_FOLDER,
    GROUP,
    LINK,
    LITELLM_CONFIG,
    SECRETS,
    SETTINGS,
    WRAPPER_FOLDER,
    Tree,
    state,
)

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
PROGRAM = REPOSITORY / ".venv/bin/python"
ENCODED = quote(CANARY, safe="")


def test_the_configuration_gets_its_keys_and_loses_nothing(tree: Tree) -> None:
    done = tree.wire()
    assert done.exit_code == 0, done.output
    before, after = yaml.safe_load(LITELLM_CONFIG), yaml.safe_load(tree.read(CONFIG))
    before["general_settings"] |= {
        "database_url": "os.environ/DATABASE_URL",
        "disable_spend_logs": False,
        "disable_error_logs": False,
    }
    before["litellm_settings"] |= {
        "database_url": "os.environ/DATABASE_URL",
        "redis_url": "os.environ/REDIS_URL",
        "proxy_logging": True,
        "store_db_logs": True,
        "cache": True,
        "cache_params": {"type": "redis"},
    }
    assert after == before
    lines = difflib.ndiff(LITELLM_CONFIG.splitlines(keepends=True), tree.read(CONFIG).splitlines(keepends=True))
    kinds = [line[:2] for line in lines]
    assert "- " not in kinds
    assert kinds.count("+ ") == 10


def test_secrets_are_encoded_and_readable_by_the_services_group_only(tree: Tree) -> None:
    tree.wire()
    assert tree.read(SECRETS).splitlines() == [
        f"DATABASE_URL=postgresql://hx_gateway:{ENCODED}@db.example.org:5432/hx_gateway",
        f"PG_URL=postgresql://hx_gateway:{ENCODED}@db.example.org:5432/hx_gateway",
        f"REDIS_URL=redis://:{ENCODED}@cache.example.org:6379/0",
        "QDRANT_URL=https://vectors.example.org:6333",
        "DISABLE_ADMIN_UI=true",
    ]
    assert state(tree.path(SECRETS))[2:] == (0o640, os.geteuid(), GROUP)


def test_the_wrapper_starts_with_what_was_written(tree: Tree) -> None:
    tree.wire()
    loaded = load_settings({}, env_files=[tree.path(SECRETS), tree.path(SETTINGS)])
    assert loaded.warnings == ()
    settings = loaded.settings
    assert (settings.embedded, settings.default_key_rpm, settings.disable_admin_ui) == (False, 60, True)
    assert (settings.host, settings.port, settings.litellm_base_url) == ("0.0.0.0", 4010, "http://127.0.0.1:4000")
    assert settings.pg_url is not None


def test_a_lost_file_of_secrets_stops_the_wrapper(tree: Tree) -> None:
    tree.wire()
    environ = {**os.environ, "HX_ENV_FILE": str(tree.path(SETTINGS)), "HX_DATA_DIR": str(tree.root / "data")}
    command = [sys.executable, "-m", "hx_gateway", "serve"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "HX_EMBEDDED=off and no PG_URL, REDIS_URL, QDRANT_URL" in done.stderr


def test_the_gateway_reads_the_wired_configuration_itself(tree: Tree) -> None:
    tree.wire()
    config = load_model_config(
        tree.path(CONFIG), {"OPENAI_API_KEY": "sk-made-up", "DATABASE_URL": "x", "REDIS_URL": "x"}
    )
    assert set(config.names) == {"fast", "local"}


def test_drop_ins_name_the_files_and_hold_nothing_secret(tree: Tree) -> None:
    tree.wire()
    assert tree.read(f"{CORE_FOLDER}/30-db.conf").splitlines()[1:] == [
        "[Service]",
        f"EnvironmentFile=/{SECRETS}",
        f'Environment="LITELLM_CONFIG=/{CONFIG}"',
        f'Environment="CONFIG_FILE_PATH=/{CONFIG}"',
    ]
    assert tree.read(f"{WRAPPER_FOLDER}/30-db.conf").splitlines()[1:] == [
        "[Service]",
        f"EnvironmentFile=/{SETTINGS}",
        f"EnvironmentFile=/{SECRETS}",
    ]
    assert not tree.path(f"{CORE_FOLDER}/40-cache.conf").exists()
    assert state(tree.path(f"{CORE_FOLDER}/30-db.conf"))[2] == 0o644
    assert state(tree.path(CORE_FOLDER))[1] == 0o755


def test_the_cache_has_a_drop_in_of_its_own_where_it_is_asked_for(tree: Tree) -> None:
    tree.wire("--cache")
    text = tree.read(f"{CORE_FOLDER}/40-cache.conf")
    assert [line for line in text.splitlines() if line.startswith("Environment")] == [
        'Environment="LITELLM_CACHE=1"',
        'Environment="LITELLM_RATE_LIMIT_ENABLED=1"',
        'Environment="LITELLM_RATE_LIMIT_TOKENS_PER_MINUTE=60"',
    ]
    assert f"LITELLM_REDIS_URL=redis://:{ENCODED}@cache.example.org:6379/0\n" in tree.read(SECRETS)
    assert not tree.path(f"{WRAPPER_FOLDER}/40-cache.conf").exists()
    tree.wire("--cache", "--mirror")
    assert tree.read(f"{WRAPPER_FOLDER}/40-cache.conf") == text


def test_a_later_run_without_the_cache_keeps_its_url_current(tree: Tree) -> None:
    tree.wire("--cache")
    tree.environ["REDIS_HOST"] = "other.example.org"
    tree.wire()
    assert "cache.example.org" not in tree.read(SECRETS)
    assert tree.path(f"{CORE_FOLDER}/40-cache.conf").exists()


def test_the_old_place_of_the_configuration_is_a_link_that_holds_in_any_tree(tree: Tree) -> None:
    tree.wire()
    assert tree.path(LINK).is_symlink()
    assert not os.readlink(tree.path(LINK)).startswith("/")
    assert tree.path(LINK).samefile(tree.path(CONFIG))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_drop_ins(tree: Tree) -> None:
    tree.wire("--cache", "--mirror")
    for unit in ("hx-litellm-gateway", "hx-gateway-ml"):
        tree.write(f"etc/systemd/system/{unit}.service", "[Service]\nExecStart=/bin/true\n")
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"{unit}.service"]
        environ = {"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{tree.path('etc/systemd/system')}:"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert "hx-" not in done.stderr, done.stderr


def test_a_second_run_changes_nothing_and_says_so(tree: Tree) -> None:
    tree.wire("--cache")
    before, stamps = tree.files(), tree.stamps()
    done = tree.wire("--cache")
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "nothing was changed"
    assert (tree.files(), tree.stamps()) == (before, stamps)
    outcomes = {step["outcome"] for step in json.loads(tree.wire("--json").output)["steps"]}
    assert "fail" not in outcomes


def test_unwiring_leaves_nothing_of_ours_and_every_other_edit(tree: Tree) -> None:
    tree.wire("--cache", "--mirror")
    edited = tree.read(CONFIG).replace("drop_params: True", "drop_params: False  # edited since")
    tree.write(CONFIG, edited.replace("type: redis", "type: redis\n        ttl: 60"))
    tree.write(SETTINGS, tree.read(SETTINGS) + "HX_WORKERS=3\n")
    tree.write(f"{WRAPPER_FOLDER}/50-own.conf", "[Service]\nNice=5\n")
    done = tree.unwire()
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(tree.read(CONFIG))
    assert values["general_settings"] == {
        "master_key": "os.environ/LITELLM_MASTER_KEY",
        "alerting": ["slack"],
        "disable_spend_logs": True,
        "disable_error_logs": True,
    }
    assert values["litellm_settings"] == {
        "drop_params": False,
        "callbacks": ["prometheus"],
        "set_verbose": False,
        "proxy_logging": True,
        "store_db_logs": True,
        "cache_params": {"ttl": 60},
    }
    assert "# edited since" in tree.read(CONFIG)
    assert tree.read(SECRETS) == "DISABLE_ADMIN_UI=true\n"
    assert "HX_WORKERS=3" in tree.read(SETTINGS)
    assert "HX_EMBEDDED" not in tree.read(SETTINGS)
    assert not tree.path(CORE_FOLDER).exists()
    assert [path.name for path in tree.path(WRAPPER_FOLDER).iterdir()] == ["50-own.conf"]
    assert CANARY not in done.output
    assert load_settings({}, env_files=[tree.path(SECRETS), tree.path(SETTINGS)]).settings.embedded


def test_unwiring_what_was_just_wired_leaves_the_configuration_but_for_the_flags(tree: Tree) -> None:
    tree.wire()
    tree.unwire()
    added = "  disable_spend_logs: true\n  disable_error_logs: true\n"
    flags = "    proxy_logging: true\n    store_db_logs: true\n"
    text = LITELLM_CONFIG.replace('  alerting: [ "slack" ]\n', f'  alerting: [ "slack" ]\n{added}')
    assert tree.read(CONFIG) == text.replace("    set_verbose: off\n", f"    set_verbose: off\n{flags}")


def test_unwiring_twice_changes_nothing_the_second_time(tree: Tree) -> None:
    tree.wire()
    tree.unwire()
    before = tree.files()
    done = tree.unwire()
    assert done.output.splitlines()[-1] == "nothing was changed"
    assert tree.files() == before


def test_a_cache_of_another_kind_is_not_ours(tree: Tree) -> None:
    tree.write(CONFIG, "litellm_settings:\n  cache: true\n  cache_params: {type: disk}\n")
    done = tree.unwire()
    assert "the cache is left as it is" in done.output
    assert yaml.safe_load(tree.read(CONFIG))["litellm_settings"] == {"cache": True, "cache_params": {"type": "disk"}}


def test_restoring_gives_back_every_byte_mode_and_owner(tree: Tree) -> None:
    before = tree.files()
    tree.wire("--cache", "--mirror")
    (stamp,) = tree.stamps()
    done = tree.run("wire", "--restore", stamp)
    assert done.exit_code == 0, done.output
    assert tree.files() == before


def test_restoring_goes_back_over_later_runs_and_can_be_taken_back_itself(tree: Tree) -> None:
    before = tree.files()
    tree.wire()
    first = tree.stamps()[0]
    wired = tree.files()
    tree.environ["PG_PASS"] = "another one"
    tree.wire("--cache")
    tree.unwire()
    tree.run("wire", "--restore", first)
    assert tree.files() == before
    stamps = tree.stamps()
    assert len(stamps) == 4
    tree.run("wire", "--restore", stamps[1])
    assert tree.files() == wired


def test_the_owner_and_the_mode_of_what_is_there_are_kept(tree: Tree) -> None:
    tree.path(CONFIG).chmod(0o664)
    tree.write(SECRETS, "LITELLM_MASTER_KEY=sk-made-up\n", 0o600)
    if os.geteuid() == 0:
        os.chown(tree.path(CONFIG), 991, 12345)
    before = state(tree.path(CONFIG))[2:]
    tree.wire()
    assert state(tree.path(CONFIG))[2:] == before
    assert state(tree.path(SECRETS))[2] == 0o600
    assert tree.read(SECRETS).startswith("LITELLM_MASTER_KEY=sk-made-up\nDATABASE_URL=")


def test_a_dry_run_shows_the_difference_and_changes_nothing(tree: Tree) -> None:
    before = tree.files()
    done = tree.wire("--dry-run", "--cache")
    assert done.exit_code == 0
    assert tree.files() == before
    assert not tree.path(BACKUPS).exists()
    assert "+    cache: true\n" in done.output
    assert "+PG_URL=[hidden]\n" in done.output
    assert f"+EnvironmentFile=/{SECRETS}\n" in done.output
    assert CANARY not in done.output
    assert ENCODED not in done.output


def test_the_canary_is_found_among_secrets_only(tree: Tree) -> None:
    tree.write(CONFIG, LITELLM_CONFIG + f"  database_url: 'postgresql://old:{ENCODED}@db/old'\n")
    outputs = [tree.wire(*options).output for options in (("--dry-run",), ("--cache", "--mirror"), ("--json",))]
    outputs += [tree.unwire("--dry-run").output, tree.unwire().output, tree.wire("--json").output]
    outputs += [tree.run("wire", "--restore", tree.stamps()[0], "--json", *dry).output for dry in (["--dry-run"], [])]
    tree.wire()
    forms = [form.encode() for form in (CANARY, ENCODED, quote(CANARY), "cAnary")]
    assert not [output for output in outputs if any(form in output.encode() for form in forms)]
    found = set()
    for path in tree.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and any(form in path.read_bytes() for form in forms):
            found.add(path)
    backups = {path for path in found if path.is_relative_to(tree.path(BACKUPS))}
    assert found - backups == {tree.path(SECRETS)}
    assert backups
    assert {path.stat().st_mode & 0o777 for path in backups} == {0o600}
    assert {path.parent.stat().st_mode & 0o777 for path in backups} == {0o700}


def test_keys_that_litellm_does_not_read_are_named(tree: Tree) -> None:
    tree.write(CONFIG, "litellm_settings:\n  cache_params: {host: elsewhere}\n")
    notes = [step["detail"] for step in json.loads(tree.wire("--json").output)["steps"] if step["outcome"] == "note"]
    assert "litellm_settings.proxy_logging" in notes[0]
    assert "cache_params.host: LiteLLM prefers it to REDIS_URL" in notes[1]


def test_without_systemd_restarts_are_reported_as_skipped(tree: Tree) -> None:
    steps = {step["name"]: step for step in json.loads(tree.wire("--json").output)["steps"]}
    for name in ("daemon-reload", "restart hx-litellm-gateway", "restart hx-gateway-ml"):
        assert (steps[name]["outcome"], steps[name]["detail"]) == ("skip", "a tree, not the host that runs")


def test_another_base_is_another_place(tree: Tree) -> None:
    tree.write("srv/my gateway%/config/api-gateway/config.yaml", LITELLM_CONFIG)
    done = tree.wire("--base", "/srv/my gateway%")
    assert done.exit_code == 0, done.output
    assert "EnvironmentFile=/srv/my gateway%%/config/api-gateway/gateway.env\n" in tree.read(
        f"{CORE_FOLDER}/30-db.conf"
    )
    assert not tree.path(SECRETS).exists()


def test_values_come_from_a_private_file_or_are_asked_for(tree: Tree) -> None:
    lines = [f"{name}={value}" for name, value in tree.environ.items() if name not in ("PG_PASS", "REDIS_PASS")]
    path = tree.write("../inputs.env", "\n".join(lines), 0o600)
    tree.environ.clear()
    done = tree.run("wire", "--no-probe", "--env-file", str(path), "--ask", typed="first-hidden\nsecond-hidden\n")
    assert done.exit_code == 0, done.output
    values = dotenv_values(stream=io.StringIO(tree.read(SECRETS)), interpolate=False)
    assert values["PG_URL"] == "postgresql://hx_gateway:first-hidden@db.example.org:5432/hx_gateway"
    assert values["REDIS_URL"] == "redis://:second-hidden@cache.example.org:6379/0"
    assert "hidden" not in done.output


@pytest.mark.skipif(not os.access(PROGRAM, os.X_OK), reason="the clone's environment belongs to another account")
def test_the_script_does_what_the_command_does(tree: Tree) -> None:
    script = REPOSITORY / "scripts/deployment/wire-db-and-cache.sh"
    command = [str(script), "--root", "root", "--no-probe"]
    environ = {"PATH": os.environ["PATH"], **tree.environ}
    host = environ.pop("PG_HOST")

    def run(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tree.root.parent, env=environ, capture_output=True, text=True, check=False)

    done = run(environ)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "hx-gateway: PG_HOST is missing: give the host, or a whole URL as PG_URL.\n"
    done = run({**environ, "PG_HOST": host})
    assert done.returncode == 0, done.stderr
    assert tree.path(SECRETS).exists()
