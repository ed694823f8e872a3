"""Makes ``src`` importable and ``hx-gateway`` callable here without a build: an editable install, offline."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

COMMAND = "#!{python}\nfrom hx_gateway.cli.main import main\n\nmain()\n"


def main() -> None:
    """Write a path file into the environment's site-packages, and the command beside its Python."""
    source = Path(__file__).resolve().parent.parent / "src"
    Path(sysconfig.get_path("purelib"), "hx_gateway_source.pth").write_text(f"{source}\n", encoding="utf-8")
    command = Path(sysconfig.get_path("scripts"), "hx-gateway")
    command.write_text(COMMAND.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)


if __name__ == "__main__":
    main()
