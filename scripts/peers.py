"""Installs the peers the gateway is used with in an environment of their own and runs the tests against them."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".state" / "peers"
LOCK = ROOT / "requirements-litellm.lock"


def installed() -> Path:
    """Return the folder of the peers' programs, in an environment that is made where it is not current."""
    python = ENVIRONMENT / "bin" / "python"
    mark = ENVIRONMENT / ".ready"
    if not mark.exists() or mark.stat().st_mtime < LOCK.stat().st_mtime:
        sys.stderr.write("Installing LiteLLM in an environment of its own ...\n")
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(LOCK),
        ]
        subprocess.run(install, check=True)
        mark.touch()
    return python.parent


def main() -> None:
    """Run the tests marked ``peers``."""
    environ = {**os.environ, "HX_TEST_LITELLM": str(installed() / "litellm")}
    command = [sys.executable, "-m", "pytest", "-m", "peers", "tests/acceptance", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
