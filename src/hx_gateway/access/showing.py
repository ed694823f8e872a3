"""Shows objects with what their rows do not tell: budgets and how they stand, a user's teams, a key's grantor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from hx_gateway.access.allowance_rows import budget
from hx_gateway.access.repository import Repository
from hx_gateway.access.resources import ResourceKind
from hx_gateway.access.views import Row, Spent, shown
from hx_gateway.allowances import Budget, ScopeKind
from hx_gateway.db.models.budgets import BudgetRow
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.tenants import Tenant

# The name of the window that a moment is in for a budget, and when that ends (``None``: never).
WindowOf = Callable[[Budget, datetime], tuple[str, datetime | None]]
_COLUMNS = ("id", "owner_kind", "owner_id", "model", "period", "limit_nano", "soft_nano")


def tenant_of(row: Row) -> str:
    """Return the id of the tenant that a row belongs to, or is."""
    return row.id if isinstance(row, Tenant) else row.tenant_id


def owner_kinds(kind: ResourceKind) -> tuple[str, ...]:
    """Return what budgets of an object of that kind are owned by: those of a tenant for single models are its own."""
    if kind is ResourceKind.TENANT:
        return (ScopeKind.TENANT.value, ScopeKind.TENANT_MODEL.value)
    return (kind.value,)


async def show(
    repository: Repository, kind: ResourceKind, rows: Sequence[Row], *, window_of: WindowOf, now: datetime
) -> list[dict[str, Any]]:
    """Return objects as they are shown at ``now``."""
    if not rows:
        return []
    ids, tenants = [row.id for row in rows], sorted({tenant_of(row) for row in rows})
    budgets = await repository.budgets(tenants, owner_kinds(kind), ids)
    standing = await _standing(repository, budgets, window_of, now)
    owned: dict[str, list[tuple[BudgetRow, Spent]]] = {}
    for one in budgets:
        owned.setdefault(one.owner_id, []).append((one, standing[one.id]))
    teams = await repository.teams_of(tenants, ids) if kind is ResourceKind.USER else {}
    granted = [row.id for row in rows if isinstance(row, ApiKey) and row.granted_by is not None]
    grantors = await repository.grantors(tenants, granted)
    return [
        shown(row, owned.get(row.id, ()), teams=teams.get(row.id), granted_by=grantors.get(row.id), now=now)
        for row in rows
    ]


async def _standing(
    repository: Repository, budgets: Sequence[BudgetRow], window_of: WindowOf, now: datetime
) -> dict[str, Spent]:
    if not budgets:
        return {}
    zones = await repository.time_zones({one.tenant_id for one in budgets})
    windows: dict[str, tuple[str, datetime | None]] = {}
    for one in budgets:
        columns = {name: getattr(one, name) for name in _COLUMNS}
        windows[one.id] = window_of(budget(columns, zones[one.tenant_id]), now)
    spent = await repository.spent([(budget_id, window) for budget_id, (window, _) in windows.items()])
    return {budget_id: Spent(*spent.get(budget_id, (0, 0)), ends) for budget_id, (_, ends) in windows.items()}
