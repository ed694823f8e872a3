"""What is kept of decisions: those that let a call through are written from a form, and say the same as the others."""

from __future__ import annotations

import random

import msgspec

from hx_gateway.allowances import Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.limits.decisions import Decisions, as_json, decision_of
from hx_gateway.limits.model import Ask, Charge, Outcome, RateState, Verdict

# Names that a form must not take for its own.
NAMES = ("plain", "100%d", "%(left)s", 'a"b', "7777777777777777777", "ü")


def some_limits(chance: random.Random) -> tuple[ScopeLimits, ...]:
    return tuple(
        ScopeLimits(
            kind=chance.choice(list(ScopeKind)),
            id=chance.choice(NAMES),
            requests=chance.choice((None, Rate(60, 60))),
            tokens=chance.choice((None, Rate(1000, 1000))),
            parallel=chance.choice((None, 3)),
        )
        for _ in range(chance.randrange(3))
    )


def some_charges(chance: random.Random) -> tuple[Charge, ...]:
    return tuple(
        Charge(
            Budget(
                id=f"{chance.choice(NAMES)}-{number}",
                kind=ScopeKind.KEY,
                owner_id=chance.choice(NAMES),
                limit_nano=chance.randrange(2**53),
                period=Period.DAY,
            ),
            "2026-11-30",
        )
        for number in range(chance.randrange(3))
    )


def state(chance: random.Random, rate: Rate | None) -> RateState | None:
    return None if rate is None else RateState(left=chance.choice((0, 1, 59)), full_in_us=7)


def test_a_form_says_what_the_decision_says() -> None:
    chance, decisions = random.Random(7), Decisions()
    for _ in range(300):
        limits, charges = some_limits(chance), some_charges(chance)
        for epoch in (0, 0, 3):
            ask = Ask(
                call_id="c", tenant_id="t", limits=limits, charges=charges, cost_nano=chance.randrange(10), epoch=epoch
            )
            verdict = Verdict(
                outcome=Outcome.ADMITTED,
                now_us=1,
                requests=tuple(state(chance, scope.requests) for scope in limits),
                tokens=tuple(state(chance, scope.tokens) for scope in limits),
                money=tuple(chance.randrange(2**53) for _ in charges),
            )
            mode, counted_by = chance.choice((("enforce", "redis"), ("shadow", "process")))
            written = decisions.admitted(ask, verdict, mode=mode, counted_by=counted_by, epoch=epoch)
            assert written == as_json(decision_of(ask, verdict, mode=mode, counted_by=counted_by, epoch=epoch))


def test_a_verdict_that_says_less_than_the_form_is_written_all_the_same() -> None:
    chance, decisions = random.Random(3), Decisions()
    charges: tuple[Charge, ...] = ()
    while not charges:
        charges = some_charges(chance)
    ask = Ask(call_id="c", tenant_id="t", charges=charges, cost_nano=5)
    for money in ((1,) * len(charges), ()):
        verdict = Verdict(outcome=Outcome.ADMITTED, now_us=1, money=money)
        written = decisions.admitted(ask, verdict, mode="enforce", counted_by="redis")
        expected = [*money] if money else [None for _ in charges]
        assert [budget.get("left_nano") for budget in msgspec.json.decode(written)["budgets"]] == expected
