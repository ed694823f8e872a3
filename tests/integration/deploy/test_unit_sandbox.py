"""The gateway runs, with its own PostgreSQL, where its unit file allows little: no mocks, but without systemd."""

from __future__ import annotations

import ctypes.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.doc_pages import ROOT
from tests.fixtures.gateway import ADMIN_KEY, Gateway
from tests.fixtures.unit_sandbox import ACCOUNT

UNIT = ROOT / "deploy/systemd/hx-gateway-ml.service"


def obstacle() -> str:
    """Return why nothing can be closed off here, or nothing."""
    if any(shutil.which(name) is None for name in ("systemd-analyze", "unshare")):
        return "needs systemd-analyze and unshare"
    if ctypes.util.find_library("seccomp") is None:
        return "needs libseccomp"
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "needs root, and the right to make name spaces"
    return ""


OBSTACLE = obstacle()
pytestmark = pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)


@pytest.fixture
def state() -> Iterator[Path]:
    """Return a folder of the account's own, outside of what is hidden."""
    with tempfile.TemporaryDirectory(prefix="hxgw-", dir="/var/tmp") as name:
        os.chown(name, pwd.getpwnam(ACCOUNT).pw_uid, pwd.getpwnam(ACCOUNT).pw_gid)
        yield Path(name)


def closed(state: Path, *command: str) -> list[str]:
    return [sys.executable, "-m", "tests.fixtures.unit_sandbox", str(UNIT), str(state), sys.executable, *command]


ATTEMPTS = """
import ctypes, mmap, os, socket, sys
state = sys.argv[1]
attempts = {
    "a file of its own": lambda: open(f"{state}/file", "w"),
    "a file in /tmp": lambda: open("/tmp/file", "w"),
    "an internet socket": lambda: socket.socket(),
    "a file in /etc": lambda: open("/etc/file", "w"),
    "its program": lambda: open(ctypes.__file__, "a"),
    "code that it writes": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "a raw socket": lambda: socket.socket(17, socket.SOCK_RAW),
    "a netlink socket": lambda: socket.socket(16, socket.SOCK_RAW),
    "another account's processes": lambda: os.stat("/proc/1"),
    "the owner that it has": lambda: os.chown(f"{state}/file", os.getuid(), os.getgid()),
    "a lower priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
"""


def test_what_the_unit_forbids_is_forbidden_here(state: Path) -> None:
    done = subprocess.run(closed(state, "-c", ATTEMPTS, str(state)), cwd=ROOT, capture_output=True, check=False)
    allowed = ["a file of its own", "a file in /tmp", "an internet socket"]
    assert (done.stdout.decode().splitlines(), done.stderr.decode()) == (allowed, "")


def test_the_gateway_serves_from_its_own_database_and_stops_in_order(state: Path) -> None:
    gateway = Gateway({"WRAPPER_HOST": "0.0.0.0", "HOME": "/"}, state)
    with gateway.log_path.open("ab") as log:
        gateway.process = subprocess.Popen(
            closed(state, "-m", "hx_gateway", "serve"),
            # StateDirectory= names the folder; nothing else does.
            env={name: value for name, value in gateway.environ.items() if name != "HX_DATA_DIR"}
            | {"STATE_DIRECTORY": str(state)},
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        gateway.wait_until(lambda: gateway.get("/readyz").status == 200)
        gateway.wait_until(lambda: gateway.get("/healthz/deps").json()["postgres"])
        smoke = [sys.executable, "-m", "hx_gateway", "smoke", "--url", gateway.url, "--key", ADMIN_KEY]
        done = subprocess.run(smoke, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + gateway.log()
        assert (state / "postgres/cluster/postmaster.pid").exists()
    finally:
        gateway.process.send_signal(signal.SIGTERM)
        status = gateway.process.wait(60)
    assert status == 0, gateway.log()
    assert not (state / "postgres/cluster/postmaster.pid").exists()
