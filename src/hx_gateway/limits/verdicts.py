"""What every store says alike: the names of scopes, what an ask takes of them, a verdict from the state after it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from hx_gateway.allowances import Rate, ScopeLimits
from hx_gateway.limits import gcra
from hx_gateway.limits.model import Ask, Outcome, RateState, Verdict
from hx_gateway.limits.money import SECOND_US


class Refusal(NamedTuple):
    """Why an ask does not pass; see :class:`Verdict`."""

    outcome: Outcome
    place: int
    left: int = 0


def scope_name(scope: ScopeLimits) -> str:
    """Return the name of a scope in every store."""
    # Kinds are strings: adding them is several times faster than formatting a member of an enumeration.
    return scope.kind + ":" + scope.id


def lease_us(seconds: float) -> int:
    """Return a lease in microseconds."""
    return int(seconds * SECOND_US)


def request_take(scope: ScopeLimits, share: int = 1) -> gcra.Take | None:
    """Return what one request takes of a scope."""
    return None if scope.requests is None else _one(scope.requests, share)


@lru_cache(maxsize=4096)
def _one(rate: Rate, share: int) -> gcra.Take:
    return gcra.take_of(1, rate, share)


def token_take(scope: ScopeLimits, tokens: int, share: int = 1) -> gcra.Take | None:
    """Return what an estimate of tokens takes of a scope."""
    return None if scope.tokens is None else gcra.take_of(tokens, scope.tokens, share)


def slots_of(scope: ScopeLimits, share: int = 1) -> int | None:
    """Return how many calls of a scope may go on at once; a part of some is at least one."""
    if scope.parallel is None or share == 1:
        return scope.parallel
    return max(min(1, scope.parallel), scope.parallel // share)


def verdict_of(
    ask: Ask,
    now: int,
    refusal: Refusal,
    *,
    requests: Sequence[int],
    tokens: Sequence[int],
    money: Sequence[int],
    share: int = 1,
) -> Verdict:
    """Return the verdict of a store in which the buckets and the budgets are so after the ask."""
    request_states: list[RateState | None] = []
    token_states: list[RateState | None] = []
    for scope, request_tat, token_tat in zip(ask.limits, requests, tokens, strict=True):
        request_states.append(_state(request_tat, now, scope.requests, share))
        token_states.append(_state(token_tat, now, scope.tokens, share))
    left, state = refusal.left, None
    if refusal.outcome is Outcome.REQUESTS:
        state = request_states[refusal.place]
    elif refusal.outcome in (Outcome.TOKENS, Outcome.TOO_LARGE):
        state = token_states[refusal.place]
    return Verdict(
        outcome=refusal.outcome,
        now_us=now,
        refused_by=refusal.place,
        retry_after_us=_retry_after(ask, now, refusal.outcome, requests, tokens, share),
        left=max(0, left if state is None else state.left),
        requests=tuple(request_states),
        tokens=tuple(token_states),
        money=tuple(max(0, left) for left in money),
    )


def _state(tat: int, now: int, rate: Rate | None, share: int) -> RateState | None:
    return None if rate is None else gcra.state_of(tat, now, rate, share)


def _retry_after(
    ask: Ask, now: int, outcome: Outcome, requests: Sequence[int], tokens: Sequence[int], share: int
) -> int:
    """Return the longest that any scope makes the ask wait, whichever refuses it first."""
    if outcome in (Outcome.ADMITTED, Outcome.TOO_LARGE):
        return 0
    longest = 0
    for scope, request_tat, token_tat in zip(ask.limits, requests, tokens, strict=True):
        for tat, take in ((request_tat, request_take(scope, share)), (token_tat, token_take(scope, ask.tokens, share))):
            longest = longest if take is None else max(longest, gcra.wait_us(tat, now, take))
    return longest
