"""Makes ``src`` importable in this environment, without building anything: what ``pip install -e`` does, offline."""

from __future__ import annotations

import sysconfig
from pathlib import Path


def main() -> None:
    """Write a path file into the environment's site-packages."""
    source = Path(__file__).resolve().parent.parent / "src"
    Path(sysconfig.get_path("purelib"), "hx_gateway_source.pth").write_text(f"{source}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
