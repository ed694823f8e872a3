"""What a model call is charged: its bound before it is sent, what it used in the end, and what an estimate may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hx_gateway.access.principal import KeyId, Principal, Scope, TenantId
from hx_gateway.allowances import Allowance, Budget, Period, Rate, RequestsOnly, ScopeKind, ScopeLimits
from hx_gateway.errors import Forbidden, HXError, Unavailable
from hx_gateway.events import Ending, RequestFinished, TokenUsage
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.calls import CallAsk, CallDone, CallRefused
from hx_gateway.limits.meter import Meter
from hx_gateway.pipeline.context import CallState, Context
from hx_gateway.pipeline.metering import CallMetering, MeteringOptions, RefusalRecorder
from hx_gateway.pricing.prices import Price, PriceList, flat
from hx_gateway.services.upstream.base import Deployment, UpstreamKind
from hx_gateway.translate.openai import decode_chat, decode_embedding
from tests.unit.pipeline.doubles import context

DEPLOYMENT = Deployment(name="one", kind=UpstreamKind.OPENAI, model="m-there", provider="openai")
PRICE = Price(input_pico=1_000_000, output_pico=2_000_000, source="config", version="1")
BUDGET = Budget(id="bg-1", kind=ScopeKind.KEY, owner_id="k", limit_nano=10**12, period=Period.TOTAL)
CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
CAPPED = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10, "n": 2}'
EMBEDDING = b'{"model": "m", "input": "hello"}'


class OneMeter:
    """Admits everything, and keeps what it was told."""

    def __init__(self, *, refuses: HXError | None = None, full: bool = False) -> None:
        self.asked: list[CallAsk] = []
        self.done: list[CallDone] = []
        self.refused: list[CallRefused] = []
        self._refuses = refuses
        self._full = full

    async def admit(self, call: CallAsk) -> Admission:
        self.asked.append(call)
        if self._refuses is not None:
            raise self._refuses
        return Admission(call=call, reserved_nano=call.cost_nano, headers=[(b"x-ratelimit-limit-requests", b"7")])

    def sent(self, admission: Admission, deployment: str, provider: str) -> None:
        if self._full:
            raise JournalRefused("the journal is full", reason="full")

    def settle(self, admission: Admission, done: CallDone) -> None:
        self.done.append(done)

    def refuse(self, refused: CallRefused) -> None:
        self.refused.append(refused)


class OnePrice:
    """Knows one price, or none."""

    def __init__(self, price: Price | None) -> None:
        self.price = price

    def prices_of(self, model: str, provider: str | None = None, *, served_as: str | None = None) -> PriceList | None:
        assert (model, provider, served_as) == ("m", "openai", "m-there")
        return None if self.price is None else flat(self.price)


def metering(meter: OneMeter, price: Price | None = PRICE, **options: Any) -> CallMetering:
    made = CallMetering(OnePrice(price), MeteringOptions(**options))
    made.bind(meter)  # type: ignore[arg-type]
    return made


def asked_by(*budgets: Budget) -> Context:
    ctx = context()
    ctx.principal = Principal(
        key_id=KeyId("k"),
        tenant_id=TenantId("default"),
        scopes=frozenset({Scope.MODELS}),
        allowance=Allowance(tenant_id="default", budgets=budgets),
    )
    ctx.deployment = DEPLOYMENT
    return ctx


async def ended(ctx: Context, ending: Ending = Ending.COMPLETE) -> None:
    assert await ctx.finish(ending) == []


async def test_under_a_budget_the_bound_is_reserved_and_the_output_capped() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    call = await metering(meter, max_output=50).admit(ctx, decode_chat(CHAT), DEPLOYMENT)
    assert call.max_tokens == 50
    assert bytes(call.body["max_tokens"]) == b"50"
    text = len(b'"m"') + len(b'[{"role": "user", "content": "hello"}]')
    assert meter.asked[0].cost_nano == text * 1000 + 50 * 2000
    assert (b"x-hx-max-tokens", b"50") in ctx.response_headers
    assert (b"x-ratelimit-limit-requests", b"7") in ctx.response_headers


async def test_a_cap_of_the_clients_counts_for_each_answer_and_is_left_alone() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    call = await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    assert call.body == decode_chat(CAPPED).body
    text = sum(len(value) for value in call.body.values())
    assert meter.asked[0].cost_nano == text * 1000 + 20 * 2000


@pytest.mark.parametrize("budgets", [(), (BUDGET,)])
async def test_only_generations_under_a_budget_are_capped(budgets: tuple[Budget, ...]) -> None:
    ctx = asked_by(*budgets)
    made = metering(OneMeter())
    assert "max_tokens" not in (await made.admit(ctx, decode_embedding(EMBEDDING), DEPLOYMENT)).body
    if not budgets:
        assert "max_tokens" not in (await made.admit(ctx, decode_chat(CHAT), DEPLOYMENT)).body


async def test_without_a_price_a_call_under_a_budget_is_refused_and_another_is_not() -> None:
    made = metering(OneMeter(), None)
    with pytest.raises(Forbidden) as caught:
        await made.admit(asked_by(BUDGET), decode_chat(CHAT), DEPLOYMENT)
    assert caught.value.code == "model_price_unknown"
    free = asked_by()
    await made.admit(free, decode_chat(CHAT), DEPLOYMENT)
    assert made.cost_of(free) is None
    await metering(OneMeter(), None, shadow=True).admit(asked_by(BUDGET), decode_chat(CHAT), DEPLOYMENT)


async def end_of(ctx: Context, meter: OneMeter, ending: Ending = Ending.COMPLETE) -> tuple[int, str]:
    await ended(ctx, ending)
    (done,) = meter.done
    return done.cost_nano, done.usage_source


async def test_what_the_server_says_is_charged_more_than_was_reserved_too() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    made = metering(meter)
    await made.admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state, ctx.usage = CallState.ANSWERED, TokenUsage(prompt_tokens=3, completion_tokens=1_000)
    assert made.cost_of(ctx) == 3 * 1000 + 1_000 * 2000
    assert await end_of(ctx, meter) == (2_003_000, "provider")


async def test_a_zero_that_the_server_says_is_a_zero() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state, ctx.usage = CallState.ANSWERED, TokenUsage(prompt_tokens=0, completion_tokens=0)
    assert await end_of(ctx, meter) == (0, "provider")


async def test_an_estimate_is_no_more_than_was_reserved() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state, ctx.output_estimate = CallState.ANSWERED, 10_000
    assert await end_of(ctx, meter, Ending.CLIENT_GONE) == (meter.asked[0].cost_nano, "estimate")
    assert meter.done[0].status == 499


async def test_an_answer_that_broke_off_is_charged_for_what_came() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state, ctx.output_estimate = CallState.ANSWERED, 4
    cost, source = await end_of(ctx, meter, Ending.ERROR)
    assert (cost, source) == (meter.done[0].prompt_tokens * 1000 + 4 * 2000, "estimate")


async def test_a_call_that_was_sent_without_a_word_of_an_answer_is_charged_whole() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state = CallState.SENT
    assert await end_of(ctx, meter, Ending.CLIENT_GONE) == (meter.asked[0].cost_nano, "estimate")


@pytest.mark.parametrize("state", [CallState.NOT_SENT, CallState.REFUSED])
async def test_what_nobody_worked_on_costs_nothing(state: CallState) -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state = state
    assert await end_of(ctx, meter, Ending.ERROR) == (0, "none")


async def test_a_price_that_changes_meanwhile_changes_nothing() -> None:
    meter, ctx, price = OneMeter(), asked_by(BUDGET), OnePrice(PRICE)
    made = CallMetering(price)
    made.bind(meter)  # type: ignore[arg-type]
    await made.admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    price.price = Price(input_pico=9, output_pico=9, source="override", version="2")
    ctx.call_state, ctx.usage = CallState.ANSWERED, TokenUsage(prompt_tokens=1, completion_tokens=1)
    assert await end_of(ctx, meter) == (3000, "provider")


async def test_an_answer_that_is_whole_is_written_down_once_and_before_its_client_has_it() -> None:
    meter, ctx = OneMeter(), asked_by(BUDGET)
    await metering(meter).admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    ctx.call_state, ctx.usage = CallState.ANSWERED, TokenUsage(prompt_tokens=1, completion_tokens=1)
    await ctx.answered(200)
    (done,) = meter.done
    assert (done.status, done.ending, done.usage_source) == (200, "complete", "provider")
    # That its client goes away without reading it changes nothing.
    ctx.status = 200
    await ctx.answered(200)
    assert await ctx.finish(Ending.CLIENT_GONE) == []
    assert meter.done == [done]
    assert ctx.cost_nano == done.cost_nano > 0


async def test_what_cannot_be_written_down_is_not_sent_under_a_budget() -> None:
    meter, ctx = OneMeter(full=True), asked_by()
    made = metering(meter)
    await made.admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    await made.sent(ctx, DEPLOYMENT)
    assert ctx.admission is not None
    ctx.admission.charges = (object(),)  # type: ignore[assignment]
    with pytest.raises(Unavailable) as caught:
        await made.sent(ctx, DEPLOYMENT)
    assert caught.value.code == "journal_full"


async def test_a_refusal_is_recorded_under_the_id_that_was_asked_with() -> None:
    meter = OneMeter(refuses=Unavailable("no"))
    made, ctx = metering(meter), asked_by(BUDGET)
    with pytest.raises(Unavailable):
        await made.admit(ctx, decode_chat(CAPPED), DEPLOYMENT)
    facts: dict[str, Any] = {"route": "chat_completions", "method": "POST", "duration": 0.1, "client": "c"}
    event = RequestFinished(
        **facts, request_id="r", status=503, ending=Ending.ERROR, model_call=True, tenant_id="t", key_id="k",
        call_id=ctx.call_id, error_code="no",
    )  # fmt: skip
    RefusalRecorder(made).emit(event)
    assert [(refused.call_id, refused.code) for refused in meter.refused] == [(meter.asked[0].call_id, "no")]
    admitted = RequestFinished(
        **facts, request_id="r", status=200, ending=Ending.COMPLETE, model_call=True, tenant_id="t", key_id="k",
        call_id=ctx.call_id, admitted=True,
    )  # fmt: skip
    RefusalRecorder(made).emit(admitted)
    assert len(meter.refused) == 1


async def test_an_answer_from_the_cache_takes_a_request_and_costs_nothing() -> None:
    meter = OneMeter()
    made, ctx = metering(meter), asked_by(BUDGET)
    ctx.deployment = None
    call = decode_chat(CHAT)
    saved = await made.admit_cached(ctx, call, DEPLOYMENT, TokenUsage(prompt_tokens=1000, completion_tokens=10))
    assert saved == 1000 * 1000 + 10 * 2000
    (asked,) = meter.asked
    assert (asked.tokens, asked.cost_nano) == (0, 0)
    assert asked.allowance is not None
    assert asked.allowance.budgets_for("m") == ()
    assert made.cost_of(ctx) == 0
    await ended(ctx)
    (done,) = meter.done
    assert (done.cost_nano, done.prompt_tokens, done.usage_source, done.upstream) == (0, 0, "none", None)


async def test_what_a_hit_saved_is_nothing_where_nobody_knows_the_price() -> None:
    made, ctx = metering(OneMeter(), None), asked_by(BUDGET)
    usage = TokenUsage(prompt_tokens=1000, completion_tokens=10)
    assert await made.admit_cached(ctx, decode_chat(CHAT), DEPLOYMENT, usage) == 0


def test_of_an_allowance_the_requests_are_left_the_same_each_time() -> None:
    limits = ScopeLimits(kind=ScopeKind.KEY, id="k", requests=Rate(7, 7), tokens=Rate(9, 9), parallel=3)
    of_model = ScopeLimits(kind=ScopeKind.TENANT_MODEL, id="m", requests=Rate(5, 5), tokens=Rate(1, 1))
    allowance = Allowance(
        tenant_id="t", limits=(limits,), budgets=(BUDGET,), model_limits={"m": of_model}, model_budgets={"m": (BUDGET,)}
    )
    left = RequestsOnly()
    assert left.of(allowance).limits_for("m") == (replace(limits, tokens=None), replace(of_model, tokens=None))
    assert left.of(allowance).budgets_for("m") == ()
    assert left.of(allowance) is left.of(allowance)
    assert left.of(replace(allowance)) is not left.of(allowance)


def test_the_meter_has_what_is_asked_of_it() -> None:
    assert {"admit", "sent", "settle", "refuse"} <= set(dir(Meter))
