"""Where on a host, or in a tree that becomes one, the files of a gateway are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DEFAULT_BASE = PurePosixPath("/opt/HX-Infrastructure-/api-gateway")
CORE_UNIT = "hx-litellm-gateway"
WRAPPER_UNIT = "hx-gateway-ml"
UNITS = (CORE_UNIT, WRAPPER_UNIT)
UNIT_FOLDER = PurePosixPath("/etc/systemd/system")
DATABASE_DROP_IN = "30-db.conf"
CACHE_DROP_IN = "40-cache.conf"


class LayoutProblem(Exception):
    """A base or a root that cannot be one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``root``. ``base`` and what begins there are paths as the host's programs see them, without it."""

    root: Path
    base: PurePosixPath = DEFAULT_BASE

    def __post_init__(self) -> None:
        if not self.base.is_absolute() or ".." in self.base.parts:
            raise LayoutProblem(f"--base {str(self.base)!r} must be an absolute path.")
        if not str(self.base).isprintable() or set(str(self.base)) & set("\"'\\$"):
            raise LayoutProblem(f"--base {str(self.base)!r} holds a character that a unit's file cannot hold.")
        if not self.root.is_dir():
            raise LayoutProblem(f"--root {str(self.root)!r} is not a folder.")

    @property
    def is_staging(self) -> bool:
        """Whether this is a tree, and not the host that runs."""
        return self.root.resolve() != Path("/")

    def at(self, path: PurePosixPath) -> Path:
        """Return where ``path`` of the host is."""
        return self.root / path.relative_to("/")

    def name_of(self, path: Path) -> str:
        """Return ``path`` as the host's programs see it."""
        return f"/{path.relative_to(self.root).as_posix()}"

    @property
    def config(self) -> PurePosixPath:
        """LiteLLM's configuration."""
        return self.base / "config/api-gateway/config.yaml"

    @property
    def secrets(self) -> PurePosixPath:
        """The environment file with everything secret."""
        return self.base / "config/api-gateway/gateway.env"

    @property
    def settings(self) -> PurePosixPath:
        """The environment file with the wrapper's settings."""
        return self.base / "config/gateway-wrapper.env"

    @property
    def link(self) -> PurePosixPath:
        """Where the configuration used to be: a link to it."""
        return self.base / "gateway/config/config.yaml"

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """Every file and link that wiring may change."""
        drop_ins = [self.drop_in(unit, name) for unit in UNITS for name in (DATABASE_DROP_IN, CACHE_DROP_IN)]
        return (self.config, self.secrets, self.settings, self.link, *drop_ins)

    @property
    def backups(self) -> Path:
        """The folder of the backups, below the root."""
        return self.at(self.base / "backups/wiring")

    def drop_in(self, unit: str, name: str) -> PurePosixPath:
        """Return the path of a unit's drop-in."""
        return UNIT_FOLDER / f"{unit}.service.d" / name
