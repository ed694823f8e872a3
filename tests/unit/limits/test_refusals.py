"""What a caller is told when a call may not begin."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from hx_gateway.allowances import Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.decisions import Decision
from hx_gateway.limits.model import Ask, Charge, Outcome, RateState, Verdict
from hx_gateway.limits.refusals import BudgetUnknown, QuotaExceeded, RateLimited, decision_in, refusal_of
from tests.unit.limits.stand_ins import BUDGET, START

SCOPE = ScopeLimits(kind=ScopeKind.TEAM, id="tm-1", requests=Rate(60, 10), tokens=Rate(1000, 1000), parallel=2)
ASK = Ask(
    call_id="c", tenant_id="t", limits=(SCOPE,), charges=(Charge(BUDGET, "2026-11"),), tokens=400, cost_nano=250_000_000
)


def verdict(outcome: Outcome, **more: object) -> Verdict:
    fields: dict[str, object] = {
        "now_us": unix_us(START),
        "refused_by": 0,
        "requests": (RateState(left=0, full_in_us=10_000_000),),
        "tokens": (RateState(left=100, full_in_us=54_000_000),),
    }
    return Verdict(outcome=outcome, **{**fields, **more})  # type: ignore[arg-type]


def test_a_rate_says_when_to_come_back_to_the_millisecond() -> None:
    error = refusal_of(ASK, verdict(Outcome.REQUESTS, retry_after_us=1_200_001))
    assert isinstance(error, RateLimited)
    assert (error.status, error.code, error.type, error.should_retry) == (
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
        None,
    )
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("2", "1201")
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.message == ("The team 'tm-1' is limited to 60 requests a minute, and 0 are left. Try again in 1.201s.")


def test_tokens_say_what_is_left_and_what_is_needed() -> None:
    error = refusal_of(ASK, verdict(Outcome.TOKENS, retry_after_us=18_000_000, left=100))
    assert error.message == (
        "The team 'tm-1' is limited to 1000 tokens a minute; 100 are left, and this call needs 400. Try again in 18s."
    )


def test_too_many_at_once_are_told_to_wait_for_one() -> None:
    error = refusal_of(ASK, verdict(Outcome.PARALLEL))
    assert "has 2 calls in progress" in error.message
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("1", "1000")


def test_a_call_that_never_fits_is_not_tried_again() -> None:
    error = refusal_of(msgspec.structs.replace(ASK, tokens=5_000), verdict(Outcome.TOO_LARGE))
    assert isinstance(error, RateLimited)
    assert (error.code, error.should_retry) == ("rate_limit_exceeded", False)
    assert "retry-after" not in error.headers
    assert "needs 5000" in error.message


def test_a_budget_says_what_is_left_and_when_it_begins_again() -> None:
    ask = msgspec.structs.replace(ASK, charges=(Charge(replace(BUDGET, limit_nano=10_000_000_000), "2026-11"),))
    error = refusal_of(ask, verdict(Outcome.BUDGET, left=200_000_000))
    assert isinstance(error, QuotaExceeded)
    assert (error.status, error.code, error.type, error.should_retry) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
        False,
    )
    assert error.message == (
        "The key 'key1' has a budget of $10 a month; $0.2 is left, and this call may cost up to $0.25. "
        "It resets at 2026-12-01T00:00:00Z."
    )


def test_a_budget_for_all_time_does_not_begin_again() -> None:
    ask = msgspec.structs.replace(ASK, charges=(Charge(replace(BUDGET, period=Period.TOTAL), "total"),))
    assert "in all" in refusal_of(ask, verdict(Outcome.BUDGET)).message
    assert "does not reset" in refusal_of(ask, verdict(Outcome.BUDGET)).message


@pytest.mark.parametrize("outcome", [Outcome.STALE, Outcome.COLD])
def test_what_nobody_knows_is_worth_another_try(outcome: Outcome) -> None:
    error = refusal_of(ASK, verdict(outcome))
    assert isinstance(error, BudgetUnknown)
    assert (error.status, error.code, error.headers["retry-after"]) == (503, "budget_unavailable", "2")


def test_a_refusal_carries_what_was_looked_at() -> None:
    decision = Decision(mode="enforce", counted_by="redis", outcome=Outcome.REQUESTS)
    seen = {"mode": "enforce", "counted_by": "redis", "outcome": "requests"}
    assert decision_in(refusal_of(ASK, verdict(Outcome.REQUESTS), decision)) == seen
    assert decision_in(BudgetUnknown()) == {}
    assert decision_in(ValueError()) == {}
