"""What every store says alike: a verdict from the state of its buckets and budgets after an ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hx_gateway.limits import gcra
from hx_gateway.limits.model import Ask, Outcome, RateState, Verdict
from hx_gateway.limits.money import SECOND_US
from hx_gateway.limits.scopes import Scope

# A member of an enumeration costs several times as much to look up as a name of a module.
ADMITTED = Outcome.ADMITTED


class Refusal(NamedTuple):
    """Why an ask does not pass; see :class:`Verdict`."""

    outcome: Outcome
    place: int
    left: int = 0


def lease_us(seconds: float) -> int:
    """Return a lease in microseconds."""
    return int(seconds * SECOND_US)


def verdict_of(
    ask: Ask,
    now: int,
    refusal: Refusal,
    scopes: Sequence[Scope],
    *,
    requests: Sequence[int],
    tokens: Sequence[int],
    money: Sequence[int],
) -> Verdict:
    """Return the verdict of a store that refuses, with the buckets of ``scopes`` and the budgets as they are."""
    outcome, place, _ = refusal
    request_states, token_states = _states(scopes, now, requests, tokens)
    return Verdict(
        outcome=outcome,
        now_us=now,
        refused_by=place,
        retry_after_us=_retry_after(ask, now, outcome, scopes, requests, tokens),
        left=_left(refusal, request_states, token_states),
        requests=request_states,
        tokens=token_states,
        money=tuple([max(0, left) for left in money]),
    )


def admitted(
    now: int, scopes: Sequence[Scope], requests: Sequence[int], tokens: Sequence[int], money: Sequence[int]
) -> Verdict:
    """Return the verdict of a store that admits: the buckets of ``scopes`` and the budgets are so after the ask."""
    request_states, token_states = _states(scopes, now, requests, tokens)
    for place, left in enumerate(money):
        if left < 0:
            # Of a call that is asked for again: others have used up what was left.
            money = [*money[:place], 0, *money[place + 1 :]]
    return Verdict(outcome=ADMITTED, now_us=now, requests=request_states, tokens=token_states, money=tuple(money))


def _states(
    scopes: Sequence[Scope], now: int, requests: Sequence[int], tokens: Sequence[int]
) -> tuple[tuple[RateState | None, ...], tuple[RateState | None, ...]]:
    request_states: list[RateState | None] = []
    token_states: list[RateState | None] = []
    for place, scope in enumerate(scopes):
        bucket = scope.requests
        request_states.append(None if bucket is None else bucket.state(requests[place], now))
        bucket = scope.tokens
        token_states.append(None if bucket is None else bucket.state(tokens[place], now))
    return tuple(request_states), tuple(token_states)


def _left(refusal: Refusal, requests: Sequence[RateState | None], tokens: Sequence[RateState | None]) -> int:
    """Return how much was left of what refused."""
    state = None
    if refusal.outcome is Outcome.REQUESTS:
        state = requests[refusal.place]
    elif refusal.outcome in (Outcome.TOKENS, Outcome.TOO_LARGE):
        state = tokens[refusal.place]
    return max(0, refusal.left if state is None else state.left)


def _retry_after(
    ask: Ask, now: int, outcome: Outcome, scopes: Sequence[Scope], requests: Sequence[int], tokens: Sequence[int]
) -> int:
    """Return the longest that any scope makes the ask wait, whichever refuses it first."""
    if outcome is Outcome.TOO_LARGE:
        return 0
    longest = 0
    for scope, request_tat, token_tat in zip(scopes, requests, tokens, strict=True):
        if scope.request is not None:
            longest = max(longest, gcra.wait_us(request_tat, now, scope.request))
        if scope.tokens is not None:
            longest = max(longest, gcra.wait_us(token_tat, now, scope.tokens.take(ask.tokens)))
    return longest
