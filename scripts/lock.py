"""Resolves the dependencies for every supported platform and writes both lock files, hashes included."""

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
    """Write ``requirements.lock`` and, constrained by it, ``requirements-dev.lock``. No index address is written."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is needed to resolve: pip install uv")
    compile_ = (uv, "pip", "compile", *OPTIONS, "pyproject.toml")
    subprocess.run((*compile_, "-o", "requirements.lock"), check=True, cwd=ROOT)
    dev = ("--group", "dev", "--all-extras", "-c", "requirements.lock", "-o", "requirements-dev.lock")
    subprocess.run((*compile_, *dev), check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
