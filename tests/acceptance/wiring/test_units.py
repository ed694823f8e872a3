"""After the files: systemd reloads, the core restarts, then the wrapper, and both are looked at.

Its programs are scripts here that note what they are asked: they stand in for a systemd, which no test may have.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hx_gateway.wiring import layout, systemd, unit_steps
from tests.acceptance.wiring.staging import CANARY, CONFIG, CORE_FOLDER, SECRETS, Tree

SYSTEMCTL = """#!/bin/sh
state="$(dirname "$0")/state"
echo "$*" >>"$state/asked"
unit="$2"
case "$1" in
daemon-reload)
  test ! -e "$state/reload-fails" || { echo "Access denied" >&2; exit 1; } ;;
restart)
  cut -d. -f1 /proc/uptime >"$state/$unit.since"
  sleep 1
  cut -d' ' -f1 /proc/uptime >"$state/$unit.since"
  test ! -e "$state/$unit.fails" || { echo "Job for $unit failed" >&2; exit 1; } ;;
show)
  test -e "$state/$unit.gone" && { echo LoadState=not-found; echo ActiveState=inactive; exit 0; }
  echo LoadState=loaded
  if [ -e "$state/$unit.since" ] && [ ! -e "$state/$unit.dies" ]; then
    echo ActiveState=active
    echo "ActiveEnterTimestampMonotonic=$(awk '{printf "%.0f", $1 * 1000000}' "$state/$unit.since")"
  else
    echo ActiveState=failed
  fi
  looks=$(cat "$state/$unit.looks" 2>/dev/null || echo 0)
  echo $((looks + 1)) >"$state/$unit.looks"
  if [ -e "$state/$unit.restarts" ]; then echo "NRestarts=$looks"; else echo NRestarts=0; fi ;;
esac
"""
JOURNALCTL = """#!/bin/sh
echo "$*" >>"$(dirname "$0")/state/asked"
cat "$(dirname "$0")/state/journal" 2>/dev/null || true
"""
CORE, WRAPPER = "hx-litellm-gateway.service", "hx-gateway-ml.service"
RESTARTS = [f"restart {CORE}", f"restart {WRAPPER}"]


class Host:
    """A tree that passes for the host, with a systemd that a test can break."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.tree = tree
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def break_it(self, name: str, text: str = "") -> None:
        (self.state / name).write_text(text)

    def mend(self, name: str) -> None:
        (self.state / name).unlink()

    def asked(self) -> list[str]:
        path = self.state / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("show ")]

    def wire(self, *options: str) -> dict[str, Any]:
        done = self.tree.wire("--json", *options)
        result: dict[str, Any] = json.loads(done.output)
        assert (done.exit_code == 0) == result["ok"]
        result["steps"] = {step["name"]: step for step in result["steps"] if step["outcome"] != "note"}
        return result


@pytest.fixture
def host(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tree, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "BOOTED", tmp_path)
    monkeypatch.setattr(systemd.Systemd, "absence", lambda self, _: self.absence_of_the_host())
    monkeypatch.setattr(unit_steps, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(unit_steps, "PORT_SECONDS", 0.3)
    assert layout.UNITS == ("hx-litellm-gateway", "hx-gateway-ml")
    with socket.create_server(("127.0.0.1", 0)) as core, socket.create_server(("127.0.0.1", 0)) as wrapper:
        monkeypatch.setattr("hx_gateway.wiring.run.CORE_PORT", core.getsockname()[1])
        tree.write(
            "opt/HX-Infrastructure-/api-gateway/config/gateway-wrapper.env",
            f"WRAPPER_PORT={wrapper.getsockname()[1]}\n",
        )
        yield made


def test_the_core_restarts_first_and_the_wrapper_after_it(host: Host) -> None:
    result = host.wire()
    assert result["ok"], result
    assert host.asked() == ["daemon-reload", *RESTARTS]
    assert "port" in result["steps"]["restart hx-gateway-ml"]["detail"]


def test_a_second_run_restarts_nothing(host: Host) -> None:
    host.wire()
    host.asked()
    result = host.wire()
    assert host.asked() == []
    assert result["steps"]["restart hx-gateway-ml"]["detail"] == "both run with what the files say"


def test_a_run_that_was_interrupted_before_the_restart_is_finished_by_the_next(host: Host) -> None:
    host.wire()
    host.break_it("reload-fails")
    time.sleep(0.02)
    host.tree.environ["PG_PASS"] = "another"
    failed = host.wire()
    assert failed["steps"]["daemon-reload"] | {"name": ""} == {
        "name": "",
        "outcome": "fail",
        "detail": "Access denied",
        "remedy": "Run this as root.",
    }
    assert failed["steps"]["restart hx-litellm-gateway"]["outcome"] == "skip"
    host.mend("reload-fails")
    host.asked()
    result = host.wire()
    assert (result["changed"], host.asked()) == ([], ["daemon-reload", *RESTARTS])


@pytest.mark.parametrize(
    ("broken", "detail"),
    [
        (f"{CORE}.fails", "Job for hx-litellm-gateway.service failed"),
        (f"{CORE}.dies", "it does not stay active"),
        (f"{CORE}.restarts", "it does not stay active"),
    ],
)
def test_a_core_that_fails_is_shown_with_its_journal_and_the_wrapper_is_left_alone(
    host: Host, broken: str, detail: str
) -> None:
    url = f"postgresql://u:{CANARY}@h/d"
    host.break_it(broken)
    host.break_it(
        "journal", f"line one\nconnecting to {url}\nthe password is {CANARY}\nkey sk-made-up-master\n\x1b[31mred\n"
    )
    host.tree.write(SECRETS, "LITELLM_MASTER_KEY=sk-made-up-master\n", 0o640)
    result = host.wire()
    step = result["steps"]["restart hx-litellm-gateway"]
    assert (result["ok"], step["outcome"]) == (False, "fail")
    assert step["detail"].startswith(f"{detail}\nline one\nconnecting to ")
    assert result["stamp"] in step["remedy"]
    assert CANARY not in json.dumps(result, ensure_ascii=False)
    assert "sk-made-up-master" not in json.dumps(result)
    assert result["steps"]["restart hx-gateway-ml"]["detail"] == "hx-litellm-gateway failed"
    asked = host.asked()
    assert RESTARTS[1] not in asked
    assert f"--no-pager -n 80 -u {CORE}" in asked


def test_what_the_units_knew_before_is_hidden_too(host: Host) -> None:
    host.wire()
    host.tree.environ["PG_PASS"] = "another-made-up-one"
    host.wire()
    host.break_it(f"{CORE}.fails")
    host.break_it("journal", f"{CANARY} and another-made-up-one, or {quote('another-made-up-one', safe='')}")
    output = host.tree.run("wire", "--restore", host.tree.stamps()[-1]).output
    assert "[hidden] and [hidden], or [hidden]" in output


def test_a_journal_is_printed_without_what_a_terminal_would_obey(host: Host) -> None:
    host.break_it(f"{CORE}.fails")
    host.break_it("journal", "\x1b[31mred\n")
    output = host.tree.wire().output
    assert "[31mred" in output
    assert "\x1b" not in output


def test_a_unit_that_is_not_installed_is_named(host: Host) -> None:
    host.break_it(f"{CORE}.gone")
    step = host.wire()["steps"]["restart hx-litellm-gateway"]
    assert (step["outcome"], step["detail"]) == ("fail", f"there is no unit {CORE}")
    assert step["remedy"] == "Install it, then run this again."


def test_a_port_at_which_nothing_answers_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.wiring.run.CORE_PORT", 1)
    step = host.wire()["steps"]["restart hx-litellm-gateway"]
    assert step["outcome"] == "fail"
    assert step["detail"].startswith("nothing answers on port 1 within")


def test_nothing_restarts_while_a_store_is_away(host: Host) -> None:
    host.tree.environ |= {
        "PG_HOST": "127.0.0.1",
        "PG_PORT": "1",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": "1",
        "QDRANT_URL": "none",
    }
    result = json.loads(host.tree.run("wire", "--json").output)
    steps = {step["name"]: step for step in result["steps"] if step["outcome"] != "note"}
    assert steps["PostgreSQL"]["detail"] == "not reachable at postgresql://127.0.0.1:1/hx_gateway: refused"
    assert "PG_HOST" in steps["PostgreSQL"]["remedy"]
    assert steps["Qdrant"]["outcome"] == "skip"
    assert steps["restart hx-litellm-gateway"] | {"name": ""} == {
        "name": "",
        "outcome": "skip",
        "detail": "a step before failed",
        "remedy": "",
    }
    assert host.asked() == []


def test_unwiring_and_restoring_restart_too(host: Host) -> None:
    host.wire()
    host.asked()
    host.tree.unwire()
    assert host.asked() == ["daemon-reload", *RESTARTS]
    host.tree.run("wire", "--restore", host.tree.stamps()[0])
    assert host.asked() == ["daemon-reload", *RESTARTS]
    assert "database_url:" not in host.tree.read(CONFIG).replace("# database_url:", "")


def test_what_was_only_taken_away_restarts_too(host: Host) -> None:
    host.wire()
    host.tree.unwire()
    host.tree.write(f"{CORE_FOLDER}/30-db.conf", "[Service]\n")
    subprocess.run(["systemctl", "restart", CORE], check=True)
    subprocess.run(["systemctl", "restart", WRAPPER], check=True)
    host.asked()
    host.tree.unwire()
    assert host.asked() == ["daemon-reload", *RESTARTS]


def test_without_systemd_the_host_is_told_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "BOOTED", Path("/nowhere"))
    step = host.wire()["steps"]["daemon-reload"]
    assert (step["outcome"], step["detail"]) == ("skip", "systemd does not run here")
