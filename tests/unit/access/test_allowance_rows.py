"""From rows to what a key's calls are counted against."""

from __future__ import annotations

from typing import Any

import pytest

from hx_gateway.access.allowance_rows import allowance, budget, scope_limits
from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits

ROW: dict[str, Any] = {
    "id": "bg",
    "owner_kind": "key",
    "owner_id": "k",
    "model": None,
    "period": "week",
    "limit_nano": 9,
    "soft_nano": 3,
}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"rpm": 5}, {"requests": Rate(5, 5)}),
        ({"rpm": 5, "burst": 50}, {"requests": Rate(5, 50)}),
        ({"tpm": 7}, {"tokens": Rate(7, 7)}),
        ({"max_parallel": 2}, {"parallel": 2}),
        (
            {"rpm": 5, "burst": 1, "tpm": 7, "max_parallel": 2},
            {"requests": Rate(5, 1), "tokens": Rate(7, 7), "parallel": 2},
        ),
    ],
)
def test_limits_become_rates(limits: dict[str, int], expected: dict[str, Any]) -> None:
    assert scope_limits(ScopeKind.KEY, "k", limits) == ScopeLimits(kind=ScopeKind.KEY, id="k", **expected)


@pytest.mark.parametrize("limits", [None, {}, {"burst": 5}])
def test_where_nothing_is_limited_there_is_no_scope(limits: dict[str, int] | None) -> None:
    assert scope_limits(ScopeKind.KEY, "k", limits) is None


def test_a_budget_is_in_its_tenants_time() -> None:
    assert budget(ROW, "Asia/Tokyo") == Budget(
        id="bg",
        kind=ScopeKind.KEY,
        owner_id="k",
        limit_nano=9,
        period=Period.WEEK,
        soft_nano=3,
        time_zone="Asia/Tokyo",
    )


def test_budgets_of_single_models_are_found_by_the_model() -> None:
    of_model = {**ROW, "owner_kind": "tenant_model", "owner_id": "acme", "model": "gpt-4o"}
    made = allowance(
        "acme",
        "UTC",
        limits=[(ScopeKind.KEY, "k", {}), (ScopeKind.TENANT, "acme", {"rpm": 1})],
        model_limits={"gpt-4o": {"tpm": 2}, "free": {}},
        budgets=[ROW, of_model, {**of_model, "id": "bg-2", "period": "day"}],
    )
    ours = Budget(
        id="bg", kind=ScopeKind.TENANT_MODEL, owner_id="gpt-4o", limit_nano=9, period=Period.WEEK, soft_nano=3
    )
    second = Budget(
        id="bg-2", kind=ScopeKind.TENANT_MODEL, owner_id="gpt-4o", limit_nano=9, period=Period.DAY, soft_nano=3
    )
    assert made == Allowance(
        tenant_id="acme",
        limits=(ScopeLimits(kind=ScopeKind.TENANT, id="acme", requests=Rate(1, 1)),),
        budgets=(budget(ROW, "UTC"),),
        model_limits={"gpt-4o": ScopeLimits(kind=ScopeKind.TENANT_MODEL, id="gpt-4o", tokens=Rate(2, 2))},
        model_budgets={"gpt-4o": (ours, second)},
    )
