"""How many registries are imported at once: each holds megabytes, and takes up to minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hx_gateway.registry.errors import ImportsBusy

MAX_AT_ONCE = 4
# So that no tenant keeps the others waiting.
MAX_OF_TENANT = 2


class ImportPlaces:
    """Places of one process."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    @contextmanager
    def place(self, tenant_id: str) -> Iterator[None]:
        """Have a place for an import. Raises :class:`ImportsBusy` where there is none."""
        if self._taken.total() >= MAX_AT_ONCE or self._taken[tenant_id] >= MAX_OF_TENANT:
            raise ImportsBusy
        self._taken[tenant_id] += 1
        try:
            yield
        finally:
            self._taken[tenant_id] -= 1
            # Without those that have none: there may be many tenants.
            self._taken += Counter()
