"""Prices that were set by API: from their table into every worker's price source."""

from __future__ import annotations

from typing import Any

from hx_gateway.pricing.prices import Price
from hx_gateway.pricing.source import PriceSource

SOURCE = "override"
MAX_OVERRIDES = 10_000
RELOAD_SECONDS = 10.0

_COLUMNS = "model, input_pico, output_pico, cached_input_pico, updated_at, updated_by"
_ALL = f"SELECT {_COLUMNS} FROM hx_gateway.model_prices ORDER BY model LIMIT {MAX_OVERRIDES}"  # noqa: S608 - ours
SET_PRICE_STATEMENT = f"""
INSERT INTO hx_gateway.model_prices (model, input_pico, output_pico, cached_input_pico, updated_at, updated_by)
VALUES ($1, $2, $3, $4, now(), $5)
ON CONFLICT (model) DO UPDATE SET input_pico = excluded.input_pico, output_pico = excluded.output_pico,
  cached_input_pico = excluded.cached_input_pico, updated_at = excluded.updated_at, updated_by = excluded.updated_by
RETURNING {_COLUMNS}
"""  # noqa: S608 - the names are ours


async def read_overrides(connection: Any) -> list[Any]:
    """Return the rows of all prices that were set, by name. ``connection`` is asyncpg's."""
    return list(await connection.fetch(_ALL))


def price_of(row: Any) -> Price:
    """Return the price of a row; its version is the time it was set."""
    return Price(
        input_pico=row["input_pico"],
        output_pico=row["output_pico"],
        cached_input_pico=row["cached_input_pico"],
        source=SOURCE,
        version=row["updated_at"].isoformat(),
    )


async def reload_overrides(source: PriceSource, connection: Any) -> None:
    """Bring ``source`` up to date: for each worker, at its start and every :data:`RELOAD_SECONDS`.

    The whole table is read, for one that was deleted or committed late leaves no newest time to ask for.
    """
    source.replace_overrides({row["model"]: price_of(row) for row in await read_overrides(connection)})
