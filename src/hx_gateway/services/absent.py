"""The twin of a store that is not configured."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hx_gateway.services.base import FailureKind, HealthSample, PoolFigures


class AbsentService:
    """Counts as healthy: nobody relies on it."""

    configured = False
    pool: PoolFigures | None = None

    def __init__(self, key: str, display_name: str) -> None:
        self.key = key
        self.display_name = display_name
        self.sample = HealthSample(healthy=True, checked_at=time.monotonic())

    async def connect(self) -> None:
        """Nothing to connect to."""

    async def healthy(self) -> bool:
        """Return true."""
        return True

    async def close(self) -> None:
        """Nothing to close."""

    def report_failure(self, kind: FailureKind) -> None:
        """Nothing can fail."""

    def on_change(self, callback: Callable[[HealthSample], None]) -> None:
        """Nothing changes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
