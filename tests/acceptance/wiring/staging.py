"""A tree like a host's, with a LiteLLM configuration full of comments, and the commands that work on it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from hx_gateway.cli.unwire import unwire
from hx_gateway.cli.wire import wire

# The two alone: making all of the program's commands takes longer than most tests.
app = typer.Typer()
app.command()(wire)
app.command()(unwire)

BASE = "opt/HX-Infrastructure-/api-gateway"
CONFIG = f"{BASE}/config/api-gateway/config.yaml"
SECRETS = f"{BASE}/config/api-gateway/gateway.env"
SETTINGS = f"{BASE}/config/gateway-wrapper.env"
LINK = f"{BASE}/gateway/config/config.yaml"
BACKUPS = f"{BASE}/backups"
CORE_FOLDER = "etc/systemd/system/hx-litellm-gateway.service.d"
WRAPPER_FOLDER = "etc/systemd/system/hx-gateway-ml.service.d"
# What an ordinary user of the tests may give a file to is itself; root gives it to this group.
GROUP = 990 if os.geteuid() == 0 else os.getegid()

CANARY = "cAnary/1#2?3%4:5@6\"7'8 9\\ü"
STORES = {
    "PG_HOST": "db.example.org",
    "PG_PASS": CANARY,
    "REDIS_HOST": "cache.example.org",
    "REDIS_PASS": CANARY,
    "QDRANT_URL": "https://vectors.example.org:6333",
}
LITELLM_CONFIG = """\
# LiteLLM of team A.  Ask   before you change this!

model_list:
  - model_name: "fast"      # quoted on purpose
    litellm_params: {model: openai/gpt-4o-mini,   api_key: os.environ/OPENAI_API_KEY}
  - model_name: 'local'
    litellm_params:
        model: ollama/llama3
        api_base: "http://127.0.0.1:11434"

litellm_settings:   # four spaces below
    drop_params: True
    callbacks:
    - prometheus
    # database_url: this is a comment

    set_verbose: off


general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  alerting: [ "slack" ]
  # the end of the settings

# the end of the file
"""


@dataclass(slots=True)
class Tree:
    """The tree at ``root``, and the environment that commands run in."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: dict(STORES))

    def __post_init__(self) -> None:
        self.write(CONFIG, LITELLM_CONFIG)
        account = f"hx-gateway:x:{991 if os.geteuid() == 0 else os.geteuid()}:{GROUP}::/:/bin/false\n"
        self.write("etc/passwd", f"root:x:0:0::/:/bin/sh\n{account}")
        self.write("etc/group", f"root:x:0:\nhx-gateway:x:{GROUP}:\n")

    def path(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str) -> str:
        return self.path(name).read_bytes().decode()

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> Path:
        path = self.path(name)
        for folder in reversed([path.parent, *path.parent.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o755)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def run(self, *arguments: str, typed: str | None = None) -> Result:
        environ: Mapping[str, str | None] = {**dict.fromkeys(STORES), **self.environ, "COLUMNS": "400"}
        return CliRunner().invoke(app, [*arguments, "--root", str(self.root)], env=environ, input=typed)

    def wire(self, *options: str) -> Result:
        return self.run("wire", "--no-probe", *options)

    def unwire(self, *options: str) -> Result:
        return self.run("unwire", *options)

    def files(self) -> dict[str, tuple[object, ...]]:
        """Return everything below the root but the backups: bytes, mode and owner of each."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name == BACKUPS or name.startswith(f"{BACKUPS}/"):
                continue
            found[name] = state(path)
        return found

    def stamps(self) -> list[str]:
        folder = self.path(f"{BACKUPS}/wiring")
        return sorted((path.name for path in folder.iterdir()), key=stamp_order) if folder.is_dir() else []


def stamp_order(stamp: str) -> tuple[str, int]:
    """Return what puts stamps into the order of their runs."""
    time, _, number = stamp.partition("-")
    return time, int(number or 1)


def state(path: Path) -> tuple[object, ...]:
    """Return what a file, link or folder is."""
    status = path.lstat()
    owner = (status.st_uid, status.st_gid)
    if path.is_symlink():
        return ("link", os.readlink(path))
    if path.is_dir():
        return ("folder", stat.S_IMODE(status.st_mode), *owner)
    return ("file", path.read_bytes(), stat.S_IMODE(status.st_mode), *owner)
