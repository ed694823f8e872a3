"""What a caller may use, as plain data: access grants it, limits count against it, and neither imports the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

NANO = 1_000_000_000
# Redis counts in doubles: whole numbers are exact up to 2**53, which is some nine million dollars in nano-dollars.
MAX_BUDGET_NANO = 9_000_000 * NANO
MAX_PER_MINUTE = 1_000_000_000
MAX_PARALLEL = 1_000_000
# Of so many allowances it is remembered what is left of them without tokens and money.
MAX_REMEMBERED = 4096


class ScopeKind(StrEnum):
    """Whose limit or budget it is."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    TENANT = "tenant"
    TENANT_MODEL = "tenant_model"


class Period(StrEnum):
    """What a budget is for: a calendar day, ISO week or month of the tenant's time zone, or once and for all."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket of ``burst`` units, refilled at ``per_minute`` a minute."""

    per_minute: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLimits:
    """The limits of one scope. ``id`` is the key's, user's, team's or tenant's; a model's name for a tenant's use."""

    kind: ScopeKind
    id: str
    requests: Rate | None = None
    tokens: Rate | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Money for a period, in nano-dollars. Above ``soft_nano`` somebody is told; above ``limit_nano`` nothing goes."""

    id: str
    kind: ScopeKind
    owner_id: str
    limit_nano: int
    period: Period
    soft_nano: int | None = None
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """All that a key's calls are counted against: its own limits and budgets, its user's, team's and tenant's.

    ``model_limits`` and ``model_budgets`` are the tenant's for single models, by the model's name.
    """

    tenant_id: str
    limits: tuple[ScopeLimits, ...] = ()
    budgets: tuple[Budget, ...] = ()
    model_limits: Mapping[str, ScopeLimits] = field(default_factory=dict)
    model_budgets: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)
    # Made once: whoever counts remembers by their identity what follows from them.
    _limits_of: dict[str, tuple[ScopeLimits, ...]] = field(init=False, repr=False, compare=False)
    _budgets_of: dict[str, tuple[Budget, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = {model: (*self.limits, of_model) for model, of_model in self.model_limits.items()}
        budgets = {model: (*self.budgets, *of_model) for model, of_model in self.model_budgets.items()}
        object.__setattr__(self, "_limits_of", limits)
        object.__setattr__(self, "_budgets_of", budgets)

    @property
    def has_budget(self) -> bool:
        """Whether any call under it is charged to a budget."""
        return bool(self.budgets or self.model_budgets)

    def limits_for(self, model: str) -> tuple[ScopeLimits, ...]:
        """Return the limits that a call of ``model`` is counted against, the same object each time."""
        return self._limits_of.get(model, self.limits)

    def budgets_for(self, model: str) -> tuple[Budget, ...]:
        """Return the budgets that a call of ``model`` is charged to, the same object each time."""
        return self._budgets_of.get(model, self.budgets)


class RequestsOnly:
    """What is left of an allowance for requests that use no tokens and no money: the same object each time."""

    def __init__(self) -> None:
        # With the allowance itself: its identity is nobody else's as long as it is kept.
        self._known: dict[int, tuple[Allowance, Allowance]] = {}

    def of(self, allowance: Allowance) -> Allowance:
        """Return ``allowance`` without rates of tokens and without budgets."""
        known = self._known.get(id(allowance))
        if known is not None:
            return known[1]
        left = replace(
            allowance,
            limits=tuple([replace(limits, tokens=None) for limits in allowance.limits]),
            budgets=(),
            model_limits={model: replace(limits, tokens=None) for model, limits in allowance.model_limits.items()},
            model_budgets={},
        )
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[id(allowance)] = (allowance, left)
        return left
