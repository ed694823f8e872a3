"""What a model call may use and what it used: admitted before it is sent, settled in every ending."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from hx_gateway.access.principal import Principal
from hx_gateway.allowances import Allowance, RequestsOnly
from hx_gateway.errors import Forbidden, Unavailable
from hx_gateway.events import Ending, RequestFinished, TokenUsage
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.kit.ids import EventIds, uuid_text
from hx_gateway.kit.turns import next_turn
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.calls import CallAsk, CallDone, CallRefused, UsageSource
from hx_gateway.limits.meter import Meter
from hx_gateway.pipeline.context import CallState, Context
from hx_gateway.pricing.estimates import Images, expected_input, image_tokens, images_in, upper_bound
from hx_gateway.pricing.prices import PriceList, cost_nano
from hx_gateway.services.upstream.base import Deployment
from hx_gateway.translate.openai import ModelRequest, Operation

DEFAULT_MAX_OUTPUT = 8192
CLIENT_GONE_STATUS = 499
MESSAGES = "messages"
NO_IMAGES = Images(0, 0)


class Prices(Protocol):
    """Knows what a model costs: ``model`` is our name for it, ``served_as`` its server's, ``provider`` whose it is."""

    def prices_of(
        self, model: str, provider: str | None = None, *, served_as: str | None = None
    ) -> PriceList | None: ...


@dataclass(frozen=True, slots=True)
class MeteringOptions:
    """``max_output``: tokens that a call may generate at most, where its client named no cap and a budget needs one.

    ``shadow``: limits decide and are recorded, and refuse nobody.
    """

    max_output: int = DEFAULT_MAX_OUTPUT
    shadow: bool = False


class _Size(msgspec.Struct, frozen=True, gc=False):
    """What a request brings along: its text in bytes, its images, and how many tokens each of them may count as."""

    text_bytes: int
    images: int
    tokens_per_image: int

    @property
    def expected_tokens(self) -> int:
        return expected_input(self.text_bytes, images=self.images, tokens_per_image=self.tokens_per_image)


NOTHING = _Size(0, 0, 0)


class CallMetering:
    """Stands between Execution and the meter: it knows requests, prices and answers; the meter knows counts.

    A price is looked up once, before the call: one that changes meanwhile changes nothing. Without a price a call under
    a budget is refused, any other one is recorded without a cost.
    """

    def __init__(
        self,
        prices: Prices,
        options: MeteringOptions | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._meter: Meter | None = None
        self._prices = prices
        self._options = options or MeteringOptions()
        self._now_ms = now_ms
        self._ids = EventIds()
        self._requests_only = RequestsOnly()

    def bind(self, meter: Meter) -> None:
        """Count with ``meter`` from now on: it lives as long as the server, which is shorter than the pipeline."""
        self._meter = meter

    @property
    def meter(self) -> Meter:
        """The meter. Raises ``Unavailable`` before there is one."""
        if self._meter is None:
            raise Unavailable("The gateway has not started to count calls yet.", code="starting")
        return self._meter

    async def admit(self, ctx: Context, call: ModelRequest, deployment: Deployment) -> ModelRequest:
        """Take what ``call`` may use and return it, with a cap on its output where a budget needs one.

        Sets ``admission``, which is settled when the request is over. Raises what the limits refuse with.
        """
        principal = ctx.principal
        assert principal is not None
        allowance = principal.allowance
        prices = self.prices_of(call.model, deployment)
        size = _size(call, deployment)
        cost = 0
        if allowance is not None and allowance.budgets_for(call.model):
            if prices is None and not self._options.shadow:
                raise _unpriced(call.model)
            call = self._capped(ctx, call)
            bound = upper_bound(
                size.text_bytes,
                cap=call.max_tokens or 0,
                n=call.n,
                images=size.images,
                tokens_per_image=size.tokens_per_image,
            )
            cost = cost_nano(prices.bound, bound.input_tokens, bound.output_tokens) if prices is not None else 0
        ask = self._ask(ctx, principal, call, size.expected_tokens, cost, prices)
        self._take(ctx, await self.meter.admit(ask))
        self._settle_at_the_end(ctx, prices, size)
        return call

    async def count(self, ctx: Context) -> None:
        """Count a request of the key's that is no call of a model: it takes a slot and counts as one, without tokens.

        A key under a budget must not come here: nobody knows what such a request costs.
        """
        principal = ctx.principal
        assert principal is not None
        allowance = principal.allowance
        if allowance is None or not allowance.limits:
            return
        ask = CallAsk(
            call_id=self._id_for(ctx),
            request_id=ctx.request_id,
            tenant_id=principal.tenant_id,
            key_id=principal.key_id,
            team_id=principal.team_id,
            user_id=principal.user_id,
            tags=principal.tags,
            allowance=replace(allowance, budgets=(), model_budgets={}, model_limits={}),
            model="",
            requested_model="",
            operation=ctx.route.name,
            route=ctx.route.name,
            shadow=self._options.shadow,
        )
        self._take(ctx, await self.meter.admit(ask))
        self._settle_at_the_end(ctx, None, NOTHING)

    async def admit_cached(self, ctx: Context, call: ModelRequest, deployment: Deployment, saved: TokenUsage) -> int:
        """Let a request begin that is answered from the cache: it takes a slot and counts as one, and costs nothing.

        Return what its call would have cost at ``deployment``, which took ``saved`` tokens; 0 where nobody knows.
        """
        principal = ctx.principal
        assert principal is not None
        prices = self.prices_of(call.model, deployment)
        ask = self._ask(ctx, principal, call, 0, 0, prices)
        if ask.allowance is not None:
            ask = msgspec.structs.replace(ask, allowance=self._requests_only.of(ask.allowance))
        self._take(ctx, await self.meter.admit(ask))
        self._settle_at_the_end(ctx, prices, NOTHING)
        if prices is None:
            return 0
        return cost_nano(
            prices.at(datetime.now(UTC), saved.prompt_tokens), saved.prompt_tokens, saved.completion_tokens
        )

    async def sent(self, ctx: Context, deployment: Deployment) -> None:
        """Note that the call goes out now, together with others that do.

        Raises ``JournalRefused`` where a call under a budget cannot be noted.
        """
        admission = ctx.admission
        assert admission is not None
        try:
            self.meter.sent(admission, deployment.name, deployment.kind.value)
            await next_turn()
            self.meter.confirm(admission)
        except JournalRefused:
            if admission.charges:
                raise

    def cost_of(self, ctx: Context) -> int | None:
        """Return what an answer that is whole cost, in nano-dollars; ``None`` where its price is not known."""
        return ctx.settling.cost() if ctx.settling is not None else None

    def prices_of(self, model: str, deployment: Deployment) -> PriceList | None:
        """Return what ``model`` costs at ``deployment``, ``None`` where nobody knows."""
        return self._prices.prices_of(model, deployment.provider, served_as=deployment.model)

    def refuse(self, event: RequestFinished) -> None:
        """Record a request to a model that never became a call. Never raises."""
        if self._meter is None or event.key_id is None or event.tenant_id is None:
            return
        self._meter.refuse(
            CallRefused(
                call_id=event.call_id or self._new_id(),
                request_id=event.request_id,
                tenant_id=event.tenant_id,
                key_id=event.key_id,
                team_id=event.team_id,
                user_id=event.user_id,
                operation=event.operation or event.route,
                requested_model=event.requested_model or "",
                model=event.model,
                status=event.status,
                code=event.error_code or event.ending.value,
                message=event.error_message or "",
                ending=event.ending.value,
                route=event.route,
                decision=event.refusal or {},
            )
        )

    def _settle_at_the_end(self, ctx: Context, prices: PriceList | None, size: _Size) -> None:
        ctx.settling = settling = Settling(self.meter, ctx, prices, size)
        ctx.after(settling)

    @staticmethod
    def _take(ctx: Context, admission: Admission) -> None:
        ctx.admission = admission
        ctx.response_headers += admission.headers

    def _capped(self, ctx: Context, call: ModelRequest) -> ModelRequest:
        if call.operation is Operation.EMBEDDING or call.max_tokens is not None:
            return call
        cap = self._options.max_output
        ctx.response_headers.append((b"x-hx-max-tokens", b"%d" % cap))
        return replace(call, body={**call.body, "max_tokens": msgspec.Raw(b"%d" % cap)}, max_tokens=cap)

    def _ask(
        self,
        ctx: Context,
        principal: Principal,
        call: ModelRequest,
        tokens: int,
        cost: int,
        prices: PriceList | None,
    ) -> CallAsk:
        price = prices.bound if prices is not None else None
        return CallAsk(
            call_id=self._id_for(ctx),
            request_id=ctx.request_id,
            tenant_id=principal.tenant_id,
            key_id=principal.key_id,
            team_id=principal.team_id,
            user_id=principal.user_id,
            tags=principal.tags,
            allowance=principal.allowance or Allowance(tenant_id=principal.tenant_id),
            model=call.model,
            requested_model=ctx.decoded.model if ctx.decoded is not None else call.model,
            operation=call.operation.value,
            stream=call.stream,
            route=ctx.route.name,
            tokens=tokens,
            cost_nano=cost,
            price_source=price.source if price is not None else None,
            price_version=price.version if price is not None else None,
            input_pico=price.input_pico if price is not None else None,
            output_pico=price.output_pico if price is not None else None,
            shadow=self._options.shadow,
        )

    def _id_for(self, ctx: Context) -> str:
        ctx.call_id = self._new_id()
        return ctx.call_id

    def _new_id(self) -> str:
        upper, lower = self._ids.next(self._now_ms())
        return uuid_text(upper, lower)


class Settling:
    """The end of one admitted call: what was used, what it costs, and the meter told of it."""

    __slots__ = ("_at", "_ctx", "_known", "_meter", "_prices", "_size", "_told")

    def __init__(self, meter: Meter, ctx: Context, prices: PriceList | None, size: _Size) -> None:
        self._meter = meter
        self._ctx = ctx
        self._prices = prices
        self._size = size
        self._at = datetime.now(UTC)
        self._known: tuple[TokenUsage, UsageSource, int] | None = None
        self._told = False

    def __call__(self, ending: Ending) -> None:
        self._tell(ending, CLIENT_GONE_STATUS if ending is Ending.CLIENT_GONE else self._ctx.status)

    async def whole(self, status: int) -> None:
        """Write down the end of a call whose answer is there, before its client has all of it.

        So whoever has an answer finds what it cost in the ledger, even if this process is killed now. Whether the
        client takes the rest changes nothing any more.
        """
        self._tell(Ending.COMPLETE, status)
        await next_turn()

    def _tell(self, ending: Ending, status: int) -> None:
        if self._told:
            return
        self._told = True
        ctx = self._ctx
        admission, deployment = ctx.admission, ctx.deployment
        assert admission is not None
        usage, source, cost = self._known or self._reckoned()
        ctx.cost_nano = cost if self._prices is not None else None
        done = CallDone(
            status=status,
            ending=ending.value,
            error_code=ctx.error.code if ctx.error is not None else None,
            message=ctx.error.message if ctx.error is not None else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            usage_source=source,
            cost_nano=cost,
            duration_ms=(time.monotonic() - ctx.timings.started) * 1000,
            attempts=ctx.attempts,
            upstream=deployment.name if deployment is not None else None,
            provider=deployment.kind.value if deployment is not None else None,
            cache=ctx.cache.outcome if ctx.cache is not None else None,
        )
        self._meter.settle(admission, done)
        # What refers to each other is left to the garbage collector, with all that hangs on it.
        ctx.settling = None

    def cost(self) -> int | None:
        """Return what an answer that is whole cost: nothing changes it any more. ``None`` without a price."""
        if self._prices is None:
            return None
        self._known = self._reckoned()
        return self._known[2]

    def _reckoned(self) -> tuple[TokenUsage, UsageSource, int]:
        """Return what was used, who says so, and what it costs."""
        usage, source = self._usage()
        return usage, source, self._charge(usage, source)

    def _usage(self) -> tuple[TokenUsage, UsageSource]:
        """Return what was used and who says so."""
        ctx = self._ctx
        if ctx.call_state in (CallState.NOT_SENT, CallState.REFUSED):
            return TokenUsage(prompt_tokens=0, completion_tokens=0), "none"
        if ctx.usage is not None:
            return ctx.usage, "estimate" if ctx.usage.estimated else "provider"
        prompt = self._size.expected_tokens
        return TokenUsage(prompt_tokens=prompt, completion_tokens=ctx.output_estimate, estimated=True), "estimate"

    def _charge(self, usage: TokenUsage, source: UsageSource) -> int:
        """Return what the call costs, in nano-dollars.

        What the model's server says is charged, more than was reserved too. An estimate is never more than the
        reservation, which is an upper bound; a call that may have been worked on without a word of an answer is
        charged with all of it.
        """
        if self._prices is None or source == "none":
            return 0
        price = self._prices.at(self._at, usage.prompt_tokens)
        cost = cost_nano(price, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        admission = self._ctx.admission
        reserved = admission.reserved_nano if admission is not None else 0
        if source == "provider" or not reserved:
            return cost
        return reserved if self._ctx.call_state is CallState.SENT else min(cost, reserved)


class RefusalRecorder:
    """An ``EventSink``: what was asked of a model and refused before it was a call is an error like others."""

    def __init__(self, metering: CallMetering) -> None:
        self._metering = metering

    def emit(self, event: RequestFinished) -> None:
        """Record a refusal."""
        if event.model_call and not event.admitted:
            self._metering.refuse(event)


def _size(call: ModelRequest, deployment: Deployment) -> _Size:
    size = sum(map(len, call.body.values()))
    messages = bytes(call.body.get(MESSAGES, b""))
    images = images_in(messages) if b"image" in messages else NO_IMAGES
    return _Size(size - images.inline_bytes, images.count, image_tokens(deployment.model))


def _unpriced(model: str) -> Forbidden:
    return Forbidden(
        f"The price of the model {model!r} is not known, and this key has a budget: set its price "
        "(PUT /v1/prices/<model>), or use a model that has one.",
        param="model",
        code="model_price_unknown",
    )
