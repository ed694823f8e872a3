"""Where the record is kept and how: read from the environment, or given by whoever uses the library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values

from hx_gateway.journal.kinds import Policy
from hx_gateway.journal.sync import Durability
from hx_gateway.observability.tables import DEFAULT_RETENTION_DAYS

URL_VARIABLES = ("PG_URL", "DATABASE_URL", "DATABASE_URI")
NOT_CONFIGURED = "none"


class ConfigError(ValueError):
    """A value of the environment that cannot be used; the text names its variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """Everything the layer can be told. Sizes in bytes, times in seconds, retention in days.

    ``url`` wins over the parts; ``none`` means that there is no database and events only gather in the journal.
    ``query_pool_max`` connections read; ``ingest_connections`` more write, and one watches.
    """

    url: str | None = field(default=None, repr=False)
    host: str = "localhost"
    port: int = 5436
    database: str = "omninode_bridge"
    user: str = "postgres"
    password: str = field(default="", repr=False)

    pool_min_size: int = 5
    pool_max_size: int = 20
    pool_exhaustion_threshold: float = 80.0
    max_queries_per_connection: int = 10_000
    connection_max_age: float = 3600.0
    ingest_connections: int = 2

    journal_dir: Path | None = None
    durability: Durability = Durability.PROCESS
    journal_max_bytes: int = 2 * 1024**3
    journal_max_age: float = 7 * 86400.0
    journal_min_free_bytes: int = 512 * 1024**2
    journal_ballast_bytes: int = 16 * 1024**2
    segment_bytes: int = 32 * 1024**2
    segment_seconds: float = 60.0
    policies: Mapping[str, Policy] = field(default_factory=dict)

    batch_size: int = 100
    batch_seconds: float = 1.0
    batch_bytes: int = 1024**2
    max_batch_size: int = 5000

    failure_threshold: int = 5
    failure_window: float = 60.0
    recovery_seconds: float = 60.0
    success_threshold: int = 3
    health_check_interval: float = 60.0

    retention_days: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_RETENTION_DAYS))
    migrate: bool = True
    connect_seconds: float = 3.0
    shutdown_seconds: float = 5.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> DatabaseConfig:
        """Return the configuration of ``environ`` (the process's own) and, for what it lacks, of ``env_file``.

        The database is the first of ``PG_URL``, ``DATABASE_URL``, ``DATABASE_URI`` and the ``POSTGRES_`` parts.
        Raises :class:`ConfigError`.
        """
        given = dict(os.environ if environ is None else environ)
        if env_file is not None and env_file.is_file():
            given = {**{k: v for k, v in dotenv_values(env_file).items() if v is not None}, **given}
        read = _Reader(given)
        return cls(
            url=next((given[name] for name in URL_VARIABLES if given.get(name, "").strip()), None),
            host=read.text(("POSTGRES_HOST", "POSTGRES_SERVER"), "localhost"),
            port=read.number("POSTGRES_PORT", 5436, 1, 65535),
            database=read.text(("POSTGRES_DATABASE", "POSTGRES_DB"), "omninode_bridge"),
            user=read.text(("POSTGRES_USER",), "postgres"),
            password=read.text(("POSTGRES_PASSWORD",), ""),
            pool_min_size=read.number("POSTGRES_POOL_MIN_SIZE", 5, 0, 1000),
            pool_max_size=read.number("POSTGRES_POOL_MAX_SIZE", 20, 1, 1000),
            pool_exhaustion_threshold=read.number("POSTGRES_POOL_EXHAUSTION_THRESHOLD", 80, 1, 100),
            max_queries_per_connection=read.number("POSTGRES_MAX_QUERIES_PER_CONNECTION", 10_000, 1, 10**9),
            connection_max_age=read.number("POSTGRES_CONNECTION_MAX_AGE", 3600, 1, 10**9),
            journal_dir=Path(given["HX_JOURNAL_DIR"]) if given.get("HX_JOURNAL_DIR") else None,
            durability=read.choice("HX_JOURNAL_DURABILITY", Durability.PROCESS),
            retention_days={
                table: read.number(f"{table}_retention_days", days, 1, 36_500)
                for table, days in DEFAULT_RETENTION_DAYS.items()
            },
        )

    @property
    def dsn(self) -> str | None:
        """The database's URL with its parts percent-encoded; ``None`` where there is none."""
        if self.url is not None:
            return None if self.url.strip() == NOT_CONFIGURED else self.url
        user, database = quote(self.user, safe=""), quote(self.database, safe="")
        login = f"{user}:{quote(self.password, safe='')}" if self.password else user
        if self.host.startswith("/"):
            return f"postgresql://{login}@/{database}?host={quote(self.host, safe='/')}&port={self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{login}@{host}:{self.port}/{database}"

    @property
    def journal_root(self) -> Path:
        """Where journals are kept: ``journal_dir``, else below the user's state directory."""
        if self.journal_dir is not None:
            return self.journal_dir
        state = os.environ.get("XDG_STATE_HOME")
        return (Path(state) if state else Path.home() / ".local" / "state") / "hx-gateway" / "journal"


class _Reader:
    """Reads variables of one mapping."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = {name.lower(): value.strip() for name, value in given.items() if value.strip()}

    def text(self, names: tuple[str, ...], default: str) -> str:
        return next((self._given[name.lower()] for name in names if name.lower() in self._given), default)

    def number(self, name: str, default: int, least: int, most: int) -> int:
        text = self._given.get(name.lower())
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number, not {text!r}") from None
        if not least <= value <= most:
            raise ConfigError(f"{name} must be from {least} to {most}, not {value}")
        return value

    def choice(self, name: str, default: Durability) -> Durability:
        text = self._given.get(name.lower())
        try:
            return default if text is None else Durability(text.lower())
        except ValueError:
            raise ConfigError(f"{name} must be one of {', '.join(Durability)}, not {text!r}") from None
