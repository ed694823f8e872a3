"""Replaces the budgets of an object: one of the same period and model goes on, with what was spent of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hx_gateway.access.errors import InvalidField
from hx_gateway.access.object_ids import new_id
from hx_gateway.access.repository import Repository
from hx_gateway.access.resources import ResourceKind
from hx_gateway.access.showing import owner_kinds, tenant_of
from hx_gateway.access.views import Row
from hx_gateway.allowances import ScopeKind
from hx_gateway.db.models.budgets import BudgetRow


async def replace_budgets(
    repository: Repository, kind: ResourceKind, row: Row, wanted: Sequence[Mapping[str, Any]], *, now: datetime
) -> None:
    """Make the budgets of ``row`` those that are ``wanted``: ``period``, ``limit_nano``, ``soft_nano``, ``model``.

    Raises :class:`InvalidField` for two of the same period and model, and for a model where only tenants have any.
    """
    _check(kind, wanted)
    here = await repository.budgets([tenant_of(row)], owner_kinds(kind), [row.id])
    known = {(budget.period, budget.model): budget for budget in here}
    for fields in wanted:
        budget = known.pop((fields["period"], fields.get("model")), None)
        if budget is None:
            repository.add(_new(kind, row, fields, now))
        elif (budget.limit_nano, budget.soft_nano) != (fields["limit_nano"], fields.get("soft_nano")):
            budget.limit_nano, budget.soft_nano = fields["limit_nano"], fields.get("soft_nano")
            budget.updated_at = now
    for budget in known.values():
        budget.deleted_at = budget.updated_at = now


def amounts(budgets: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Return period and limit of each."""
    return [(fields["period"], fields["limit_nano"]) for fields in budgets]


def _check(kind: ResourceKind, wanted: Sequence[Mapping[str, Any]]) -> None:
    seen = [(fields["period"], fields.get("model")) for fields in wanted]
    if len(set(seen)) != len(seen):
        raise InvalidField("budgets must not hold two of the same period and model.", param="budgets")
    if kind is not ResourceKind.TENANT and any(model is not None for _, model in seen):
        raise InvalidField("budgets: only those of a tenant are for single models.", param="budgets")


def _new(kind: ResourceKind, row: Row, fields: Mapping[str, Any], now: datetime) -> BudgetRow:
    model = fields.get("model")
    return BudgetRow(
        id=new_id("bg"),
        tenant_id=tenant_of(row),
        owner_kind=kind.value if model is None else ScopeKind.TENANT_MODEL.value,
        owner_id=row.id,
        model=model,
        period=fields["period"],
        limit_nano=fields["limit_nano"],
        soft_nano=fields.get("soft_nano"),
        created_at=now,
        updated_at=now,
    )
