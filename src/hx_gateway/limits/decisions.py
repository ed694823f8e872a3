"""What was looked at before a call was let through or refused, as JSON that is kept with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hx_gateway.allowances import ScopeKind, ScopeLimits
from hx_gateway.limits.model import Ask, Charge, Outcome, RateState, Verdict
from hx_gateway.limits.refusals import decision_refusal

# Forms of decisions that are remembered.
MAX_FORMS = 10_000
# Stands for a number in a form: no limit is as large, and no name holds it.
_BLANK = 7_777_777_777_777_777_777

as_json = msgspec.json.Encoder().encode


class LimitSeen(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A scope that was looked at: what it allows a minute, and what was left after the ask."""

    kind: ScopeKind
    id: str
    rpm: int | None = None
    requests_left: int | None = None
    tpm: int | None = None
    tokens_left: int | None = None
    max_parallel: int | None = None


class BudgetSeen(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A window of a budget that was looked at, in nano-dollars: what was asked of it, and left after the ask."""

    id: str
    kind: ScopeKind
    owner: str
    window: str
    limit_nano: int
    asked_nano: int
    left_nano: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What was looked at and what was left of it, for the record of decisions.

    ``mode``: ``enforce`` or ``shadow``. ``counted_by``: who counted. ``refused`` is there when something refused.
    """

    mode: str
    counted_by: str
    outcome: Outcome
    epoch: int = 0
    limits: tuple[LimitSeen, ...] = ()
    budgets: tuple[BudgetSeen, ...] = ()
    refused: Mapping[str, Any] | None = None


class _Form(msgspec.Struct, frozen=True, gc=False):
    """The JSON of an admitted call with blanks for its numbers. It keeps limits and charges, for their identity."""

    limits: tuple[ScopeLimits, ...]
    charges: tuple[Charge, ...]
    mode: str
    counted_by: str
    epoch: int
    json: bytes
    blanks: int


class Decisions:
    """The decisions that let a call through, nearly all there are: only their numbers differ from call to call."""

    def __init__(self) -> None:
        self._forms: dict[tuple[int, int], _Form] = {}

    def admitted(self, ask: Ask, verdict: Verdict, *, mode: str, counted_by: str, epoch: int = 0) -> bytes:
        """Return the JSON of :func:`decision_of` for a verdict that admits."""
        limits, charges = ask.limits, ask.charges
        form = self._forms.get((id(limits), id(charges)))
        if (
            form is None
            or form.limits is not limits
            or form.charges is not charges
            or form.epoch != epoch
            or form.counted_by != counted_by
            or form.mode != mode
        ):
            form = self._make(ask, verdict, mode, counted_by, epoch)
        numbers = []
        for requests, tokens in zip(verdict.requests, verdict.tokens, strict=True):
            if requests is not None:
                numbers.append(requests.left)
            if tokens is not None:
                numbers.append(tokens.left)
        for left in verdict.money:
            numbers += (ask.cost_nano, left)
        if len(numbers) != form.blanks:
            return as_json(decision_of(ask, verdict, mode=mode, counted_by=counted_by, epoch=epoch))
        return form.json % tuple(numbers)

    def _make(self, ask: Ask, verdict: Verdict, mode: str, counted_by: str, epoch: int) -> _Form:
        state = RateState(left=_BLANK, full_in_us=0)
        blank = Verdict(
            outcome=Outcome.ADMITTED,
            now_us=0,
            requests=tuple([state if known is not None else None for known in verdict.requests]),
            tokens=tuple([state if known is not None else None for known in verdict.tokens]),
            money=(_BLANK,) * len(verdict.money),
        )
        decision = decision_of(
            msgspec.structs.replace(ask, cost_nano=_BLANK), blank, mode=mode, counted_by=counted_by, epoch=epoch
        )
        blank_json = b":%d" % _BLANK
        text = as_json(decision).replace(b"%", b"%%")
        form = _Form(
            ask.limits, ask.charges, mode, counted_by, epoch, text.replace(blank_json, b":%d"), text.count(blank_json)
        )
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[(id(ask.limits), id(ask.charges))] = form
        return form


def decision_of(ask: Ask, verdict: Verdict, *, mode: str, counted_by: str, epoch: int = 0) -> Decision:
    """Return what was looked at before a verdict."""
    outcome = verdict.outcome
    return Decision(
        mode=mode,
        counted_by=counted_by,
        outcome=outcome,
        epoch=epoch,
        limits=tuple([_limit_seen(scope, verdict, index) for index, scope in enumerate(ask.limits)]),
        budgets=tuple([_budget_seen(charge, ask, verdict, index) for index, charge in enumerate(ask.charges)]),
        refused=None if outcome is Outcome.ADMITTED else decision_refusal(ask, verdict),
    )


def _limit_seen(scope: ScopeLimits, verdict: Verdict, index: int) -> LimitSeen:
    requests, tokens = _at(verdict.requests, index), _at(verdict.tokens, index)
    rpm = requests_left = tpm = tokens_left = None
    if scope.requests is not None and requests is not None:
        rpm, requests_left = scope.requests.per_minute, requests.left
    if scope.tokens is not None and tokens is not None:
        tpm, tokens_left = scope.tokens.per_minute, tokens.left
    return LimitSeen(scope.kind, scope.id, rpm, requests_left, tpm, tokens_left, scope.parallel)


def _budget_seen(charge: Charge, ask: Ask, verdict: Verdict, index: int) -> BudgetSeen:
    budget, money = charge.budget, verdict.money
    left = money[index] if index < len(money) else None
    return BudgetSeen(budget.id, budget.kind, budget.owner_id, charge.window, budget.limit_nano, ask.cost_nano, left)


def _at(states: tuple[RateState | None, ...], index: int) -> RateState | None:
    return states[index] if index < len(states) else None
