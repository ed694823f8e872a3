"""Starts the stores that have no URL, and gives the settings with theirs filled in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.embedded.valkey import EmbeddedValkey
from hx_gateway.settings import Settings


class EmbeddedStores:
    """Owned by the process that was started; workers only get the URLs.

    PostgreSQL is embedded when it has no URL; Valkey when there is no ``REDIS_URL`` and more than one worker, because
    exact limits need one authority. ``check`` is called once a second from the main thread: it restarts what died.
    """

    def __init__(self, settings: Settings, data_dir: Path, *, notify: Callable[[str], None]) -> None:
        self._settings = settings
        self._postgres = (
            EmbeddedPostgres(data_dir / "postgres", notify=notify)
            if settings.embedded and settings.pg_url is None
            else None
        )
        self._valkey = (
            EmbeddedValkey(data_dir / "valkey", notify=notify)
            if settings.embedded and settings.redis_url is None and settings.workers > 1
            else None
        )

    def start(self) -> Settings:
        """Start them and return the settings with their URLs. Raises ``EmbeddedError`` with a remedy."""
        urls: dict[str, SecretStr] = {}
        if self._postgres is not None:
            self._postgres.start()
            urls["pg_url"] = SecretStr(self._postgres.url)
        if self._valkey is not None:
            self._valkey.start()
            urls["redis_url"] = SecretStr(self._valkey.url)
        return self._settings.model_copy(update=urls)

    def check(self) -> None:
        """Restart a store of ours that died."""
        for store in (self._postgres, self._valkey):
            if store is not None:
                store.check()

    def stop(self) -> None:
        """Stop them, the last started first."""
        for store in (self._valkey, self._postgres):
            if store is not None:
                store.stop()
