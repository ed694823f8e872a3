"""Why a call may not begin, in words for its caller: over a rate, over a budget, or nobody can say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from hx_gateway.allowances import Budget, Period, ScopeKind, ScopeLimits
from hx_gateway.errors import HXError, Unavailable
from hx_gateway.kit.epochs import from_unix_us
from hx_gateway.kit.money import usd_text
from hx_gateway.limits.headers import duration_text, rate_headers
from hx_gateway.limits.model import Ask, Outcome, Verdict
from hx_gateway.limits.windows import window_of

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
# When a call that is going on will end is not known.
PARALLEL_RETRY_US = SECOND_US

_NAMES = {
    ScopeKind.KEY: "key",
    ScopeKind.USER: "user",
    ScopeKind.TEAM: "team",
    ScopeKind.TENANT: "tenant",
    ScopeKind.TENANT_MODEL: "tenant's use of model",
}
_PERIODS = {Period.DAY: "day", Period.WEEK: "week", Period.MONTH: "month"}


class RateLimited(HXError):
    """Over a limit of requests, tokens or calls at once. ``retry-after`` and ``retry-after-ms`` say when it passes.

    ``explanation``, in all refusals: what was looked at, as in :func:`~hx_gateway.limits.decisions.decision_of`.
    """

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class QuotaExceeded(HXError):
    """A budget has no room for what the call may cost: trying again does not help."""

    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers=headers, should_retry=False)


class BudgetUnknown(Unavailable):
    """Nobody can say what is left of a budget right now, and what is not known is not spent."""

    code = "budget_unavailable"

    def __init__(self, message: str = "", *, retry_after_seconds: int = 2) -> None:
        super().__init__(
            message or "What is left of this key's budget is not known right now; try again in a moment.",
            retry_after_seconds=retry_after_seconds,
        )


Refusal: TypeAlias = RateLimited | QuotaExceeded | BudgetUnknown


def refusal_of(ask: Ask, verdict: Verdict, decision: msgspec.Struct | None = None) -> Refusal:
    """Return the error for a verdict that refuses; ``decision`` says what was looked at."""
    error: Refusal
    match verdict.outcome:
        case Outcome.BUDGET:
            error = _over_budget(ask, verdict)
        case Outcome.REQUESTS | Outcome.TOKENS | Outcome.PARALLEL:
            error = _over_rate(ask, verdict)
        case Outcome.TOO_LARGE:
            error = _too_large(ask, verdict)
        case _:
            error = BudgetUnknown()
    error.explanation = {} if decision is None else msgspec.to_builtins(decision)
    return error


def decision_in(error: BaseException) -> dict[str, Any]:
    """Return what was looked at before a call was refused; nothing where nobody could look."""
    return dict(error.explanation or {}) if isinstance(error, RateLimited | QuotaExceeded | BudgetUnknown) else {}


def _over_rate(ask: Ask, verdict: Verdict) -> RateLimited:
    scope = ask.limits[verdict.refused_by]
    wait_us = verdict.retry_after_us
    if verdict.outcome is Outcome.PARALLEL:
        wait_us = max(wait_us, PARALLEL_RETRY_US)
        said = f"has {scope.parallel} calls in progress, as many as it may have at once"
        then = "Try again when one has ended."
    else:
        then = f"Try again in {duration_text(wait_us)}."
        if verdict.outcome is Outcome.REQUESTS:
            said = f"is limited to {_rate(scope, 'requests')} requests a minute, and {verdict.left} are left"
        else:
            said = (
                f"is limited to {_rate(scope, 'tokens')} tokens a minute; {verdict.left} are left, "
                f"and this call needs {ask.tokens}"
            )
    headers = {
        **_headers(ask, verdict),
        "retry-after": str(max(1, -(-wait_us // SECOND_US))),
        "retry-after-ms": str(max(1, -(-wait_us // MILLISECOND_US))),
    }
    return RateLimited(f"{_owner(scope)} {said}. {then}", headers=headers)


def _too_large(ask: Ask, verdict: Verdict) -> RateLimited:
    scope = ask.limits[verdict.refused_by]
    return RateLimited(
        f"{_owner(scope)} is limited to {_rate(scope, 'tokens')} tokens a minute, and this call alone needs "
        f"{ask.tokens}: shorten the prompt or ask for fewer tokens.",
        headers=_headers(ask, verdict),
        should_retry=False,
    )


def _over_budget(ask: Ask, verdict: Verdict) -> QuotaExceeded:
    budget = ask.charges[verdict.refused_by].budget
    return QuotaExceeded(
        f"The {_NAMES[budget.kind]} {budget.owner_id!r} has a budget of ${usd_text(budget.limit_nano)}{_per(budget)}; "
        f"${usd_text(verdict.left)} is left, and this call may cost up to ${usd_text(ask.cost_nano)}. "
        f"{_reset(budget, from_unix_us(verdict.now_us))}",
        headers=_headers(ask, verdict),
    )


def decision_refusal(ask: Ask, verdict: Verdict) -> dict[str, Any]:
    """Return which limit or budget refused, for the decision that is kept."""
    if verdict.outcome is Outcome.BUDGET:
        charge = ask.charges[verdict.refused_by]
        return {"by": "budget", "id": charge.budget.id, "window": charge.window, "left_nano": verdict.left}
    if verdict.refused_by < 0:
        return {"by": str(verdict.outcome)}
    scope = ask.limits[verdict.refused_by]
    return {"by": str(verdict.outcome), "kind": str(scope.kind), "id": scope.id, "left": verdict.left}


def _headers(ask: Ask, verdict: Verdict) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("ascii") for name, value in rate_headers(ask.limits, verdict)}


def _owner(scope: ScopeLimits) -> str:
    return f"The {_NAMES[scope.kind]} {scope.id!r}"


def _rate(scope: ScopeLimits, what: str) -> int:
    rate = scope.requests if what == "requests" else scope.tokens
    return 0 if rate is None else rate.per_minute


def _per(budget: Budget) -> str:
    return f" a {_PERIODS[budget.period]}" if budget.period in _PERIODS else " in all"


def _reset(budget: Budget, at: datetime) -> str:
    end = window_of(budget.period, budget.time_zone, at).end
    if end is None:
        return "It does not reset: ask whoever set it to raise it."
    return f"It resets at {end.isoformat().replace('+00:00', 'Z')}."
