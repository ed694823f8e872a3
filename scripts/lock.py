"""Resolves the dependencies for every supported platform and writes the lock files, hashes included."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--universal",
    "--generate-hashes",
    "--python-version",
    "3.11",
    "--no-annotate",
    "--no-header",
    "--quiet",
)


def main() -> None:
    """Write ``requirements.lock``, ``-dev`` constrained by it, and ``-docs``. No index address is written."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is needed to resolve: pip install uv")
    compile_ = (uv, "pip", "compile", *OPTIONS)
    project = (*compile_, "pyproject.toml")
    dev = ("--group", "dev", "--all-extras", "-c", "requirements.lock", "-o", "requirements-dev.lock")
    docs = ("--group", "pyproject.toml:docs", "-o", "requirements-docs.lock")
    for command in ((*project, "-o", "requirements.lock"), (*project, *dev), (*compile_, *docs)):
        subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
