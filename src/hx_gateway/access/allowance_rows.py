"""Builds a key's allowance from what its row, and those of whom it belongs to, say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits


def scope_limits(kind: ScopeKind, owner_id: str, limits: Mapping[str, int] | None) -> ScopeLimits | None:
    """Return the limits of one scope; ``None`` where nothing is limited.

    Without a ``burst`` as many requests may come at once as a minute allows; tokens are always so.
    """
    if not limits:
        return None
    rpm, tpm, parallel = limits.get("rpm"), limits.get("tpm"), limits.get("max_parallel")
    if rpm is None and tpm is None and parallel is None:
        return None
    return ScopeLimits(
        kind=kind,
        id=owner_id,
        requests=None if rpm is None else Rate(rpm, limits.get("burst") or rpm),
        tokens=None if tpm is None else Rate(tpm, tpm),
        parallel=parallel,
    )


def budget(row: Mapping[str, Any], time_zone: str) -> Budget:
    """Return the budget that ``row`` tells of. One for a single model is told by the model's name."""
    kind = ScopeKind(row["owner_kind"])
    return Budget(
        id=row["id"],
        kind=kind,
        owner_id=row["model"] if kind is ScopeKind.TENANT_MODEL else row["owner_id"],
        limit_nano=row["limit_nano"],
        period=Period(row["period"]),
        soft_nano=row["soft_nano"],
        time_zone=time_zone,
    )


def allowance(
    tenant_id: str,
    time_zone: str,
    *,
    limits: Iterable[tuple[ScopeKind, str, Mapping[str, int] | None]],
    model_limits: Mapping[str, Mapping[str, int]],
    budgets: Iterable[Mapping[str, Any]],
) -> Allowance:
    """Return what a key's calls are counted against: ``limits`` of each scope, and rows of ``budgets``."""
    plain: list[Budget] = []
    of_models: dict[str, tuple[Budget, ...]] = {}
    for row in budgets:
        made = budget(row, time_zone)
        if made.kind is ScopeKind.TENANT_MODEL:
            of_models[made.owner_id] = (*of_models.get(made.owner_id, ()), made)
        else:
            plain.append(made)
    scopes = [scope_limits(kind, owner_id, given) for kind, owner_id, given in limits]
    single = {model: scope_limits(ScopeKind.TENANT_MODEL, model, given) for model, given in model_limits.items()}
    return Allowance(
        tenant_id=tenant_id,
        limits=tuple(scope for scope in scopes if scope is not None),
        budgets=tuple(plain),
        model_limits={model: scope for model, scope in single.items() if scope is not None},
        model_budgets=of_models,
    )
