"""The response cache in the pipeline: what it does for a request, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from hx_gateway.cache.answers import StoredAnswer, is_complete
from hx_gateway.cache.assembly import StreamAssembly
from hx_gateway.cache.flights import Flights, Lead
from hx_gateway.cache.identity import canonical, digest_of, partition_of
from hx_gateway.cache.meaning.questions import Wording, take_apart
from hx_gateway.cache.policy import HEADER, SIMILARITY_HEADER, CacheDefaults, Plan, plan_for
from hx_gateway.cache.replay import as_stream
from hx_gateway.cache.store import AnswerCache, CacheAway, Found, Question
from hx_gateway.events import Ending, TokenUsage
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.repeated import RepeatedBodies
from hx_gateway.services.upstream.base import Deployment
from hx_gateway.translate.openai import ModelRequest
from hx_gateway.translate.stream_usage import usage_from_body

Outcome = Literal["hit", "miss", "bypass"]

# How long a request waits for another's whole answer: then a stream would rather begin itself, and whoever the other
# streams to is too slow for anybody to depend on.
STREAM_WAIT_SECONDS = 10.0
WHOLE_WAIT_SECONDS = 60.0
# Answers that are on their way to a store; more are not kept.
MAX_KEEPING = 256
FLIGHT = "flight"
NONE, ASKED, AWAY, UNCLEAR = "none", "asked", "unavailable", "unclear"
_HEADER = HEADER.encode("ascii")
_SIMILARITY_HEADER = SIMILARITY_HEADER.encode("ascii")
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream")
_BETA = b"openai-beta"
_NO_USAGE = TokenUsage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingOptions:
    """``entry_max_bytes``: the longest answer that is kept."""

    defaults: CacheDefaults
    entry_max_bytes: int = 256 * 1024
    stream_wait_seconds: float = STREAM_WAIT_SECONDS
    whole_wait_seconds: float = WHOLE_WAIT_SECONDS


class CacheCounts:
    """Takes note of what the cache did; the twin of the one that feeds metrics."""

    def looked(self, outcome: Outcome, kind: str) -> None:
        """Note one request: ``kind`` is what a hit came from, or why it was bypassed."""

    def saved(self, kind: str, prompt_tokens: int, completion_tokens: int, nano: int) -> None:
        """Note what a hit saved, money in nano-dollars."""

    def lost(self) -> None:
        """Note an answer that could not be kept."""


class AnswerCaching:
    """Asks the caches, in their order, and keeps answers in all of them. Close it before what they stand on.

    A cache that is away or too slow is passed by: it costs a request :data:`~hx_gateway.cache.store.BUDGET_SECONDS` at
    most, and never an answer.
    """

    def __init__(
        self,
        caches: Sequence[AnswerCache],
        options: CachingOptions,
        *,
        counts: CacheCounts | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.caches = tuple(caches)
        self.counts = counts or CacheCounts()
        self.flights = Flights()
        self.repeated = RepeatedBodies()
        self._options = options
        self._defaults = options.defaults
        self._now = now
        self._jobs: set[asyncio.Task[None]] = set()

    async def look(self, ctx: Context) -> None:
        """Set ``cache``: found, or to be kept, or passed by; nothing where the cache is off for this request."""
        call, principal = ctx.call, ctx.principal
        assert call is not None
        assert principal is not None
        planned = self._defaults.plan_of(principal.cache, call.model)
        if planned is None:
            return
        word, control, beta, near = _headers(ctx)
        plan = plan_for(planned, call.cache, word, control, near)
        if plan is None:
            return
        use = ctx.cache = CacheUse(self)
        if not (plan.look_up or plan.keep):
            use.bypass(ctx, ASKED)
            return
        question = _question(ctx, call, plan, beta)
        if question is None:
            use.bypass(ctx, UNCLEAR)
        elif not plan.look_up:
            use.keeping = Keeping(self, question, plan, call, None)
            use.bypass(ctx, ASKED)
        else:
            await self._look_up(ctx, use, question, plan)

    async def aclose(self) -> None:
        """Finish what is being kept, and let go of the caches."""
        if self._jobs:
            await asyncio.wait(self._jobs)
        for cache in self.caches:
            await cache.aclose()

    async def _look_up(self, ctx: Context, use: CacheUse, question: Question, plan: Plan) -> None:
        """Ask the caches for an answer that is not too old, and then whoever is called for the same now."""
        away = True
        for cache in self.caches:
            try:
                found = await cache.find(question)
            except CacheAway:
                continue
            away = False
            if found is None:
                continue
            age = self._age(found.answer)
            if plan.max_age_seconds is None or age <= plan.max_age_seconds:
                use.hit(found, cache.kind, age)
                if ctx.written is not None:
                    self.repeated.keep(ctx.written)
                return
        if away:
            use.bypass(ctx, AWAY)
            return
        if plan.keep:
            await self._join(ctx, use, question, plan)
        if use.found is None:
            use.miss(ctx)

    async def _join(self, ctx: Context, use: CacheUse, question: Question, plan: Plan) -> None:
        """Wait for whoever is called for the same, or be the one that is waited for."""
        call, options = ctx.call, self._options
        assert call is not None
        wait = options.stream_wait_seconds if call.stream else options.whole_wait_seconds
        joined = await self.flights.join(question.digest, wait)
        if isinstance(joined, StoredAnswer):
            use.hit(Found(joined), FLIGHT, self._age(joined))
            return
        if joined is not None:
            use.lead = joined
            ctx.after(partial(use.over, ctx))
        use.keeping = Keeping(self, question, plan, call, joined)

    def store(self, question: Question, body: bytes, plan: Plan, *, capped: bool) -> StoredAnswer | None:
        """Keep an answer if it is one to keep, without waiting for that; return it then."""
        if len(body) > self._options.entry_max_bytes or not is_complete(question.operation, body, capped=capped):
            return None
        usage = usage_from_body(body) or _NO_USAGE
        answer = StoredAnswer(
            partition=question.partition,
            digest=question.digest,
            model=question.model,
            key_id=question.key_id,
            kept_at=self._now(),
            body=body,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )
        if len(self._jobs) >= MAX_KEEPING:
            self.counts.lost()
        else:
            self._begin(self._keep(question, answer, plan.ttl_seconds))
        return answer

    @property
    def entry_max_bytes(self) -> int:
        """The longest answer that is kept."""
        return self._options.entry_max_bytes

    async def _keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        for cache in self.caches:
            try:
                await cache.keep(question, answer, ttl_seconds)
            except CacheAway:
                self.counts.lost()

    def _begin(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _age(self, answer: StoredAnswer) -> float:
        return max(0.0, self._now() - answer.kept_at)


class CacheUse:
    """What the cache does for one request. ``found`` is the answer it has for it, ``keeping`` what takes the answer."""

    __slots__ = ("_age", "_caching", "found", "keeping", "kind", "lead", "outcome")

    def __init__(self, caching: AnswerCaching) -> None:
        # Not said yet: what was found counts once the limits have let the request begin.
        self.outcome: Outcome | None = None
        self.kind = ""
        self.found: Found | None = None
        self.keeping: Keeping | None = None
        self.lead: Lead | None = None
        self._caching = caching
        self._age = 0.0

    def hit(self, found: Found, kind: str, age: float) -> None:
        """Answer with what was found."""
        self.found, self.kind, self._age = found, kind, age

    def miss(self, ctx: Context) -> None:
        """Say that nothing was found."""
        self._told(ctx, "miss", NONE)

    def bypass(self, ctx: Context, why: str) -> None:
        """Say that nothing was looked up, or could be."""
        self._told(ctx, "bypass", why)

    @property
    def saved(self) -> TokenUsage:
        """The tokens that the found answer took when it was made."""
        assert self.found is not None
        answer = self.found.answer
        return TokenUsage(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)

    def reply(self, call: ModelRequest, saved_nano: int) -> Reply:
        """Return the found answer in the form that ``call`` asks for."""
        assert self.found is not None
        self.outcome, counts = "hit", self._caching.counts
        counts.looked("hit", self.kind)
        answer = self.found.answer
        counts.saved(self.kind, answer.prompt_tokens, answer.completion_tokens, saved_nano)
        headers = [(_HEADER, b"hit"), (b"x-hx-cache-age", b"%d" % int(self._age))]
        if self.found.similarity is not None:
            headers.append((_SIMILARITY_HEADER, b"%.4f" % self.found.similarity))
        if call.stream:
            events = as_stream(call.operation, answer.body, include_usage=call.include_usage)
            return Reply(200, [_EVENTS, *headers], events)
        return Reply(200, [_JSON, *headers], answer.body)

    def taken(self, reply: Reply) -> Reply:
        """Return ``reply``, which is kept if it is whole already; a stream is taken as it passes."""
        if self.keeping is not None and isinstance(reply.body, bytes):
            self.keeping.whole(reply)
        return reply

    def over(self, ctx: Context, ending: Ending) -> None:
        """Let those who wait go on: one leads them where no call failed, but its client left or its key's limit hit."""
        if self.lead is not None:
            self.lead.end(hand_over=ending is Ending.CLIENT_GONE or ctx.attempts == 0)

    def _told(self, ctx: Context, outcome: Outcome, kind: str) -> None:
        self.outcome, self.kind = outcome, kind
        self._caching.counts.looked(outcome, kind)
        ctx.response_headers.append((_HEADER, outcome.encode("ascii")))


class Keeping:
    """Takes the answer to one request, and gives it to the caches and to those who wait for it."""

    __slots__ = ("_assembly", "_caching", "_call", "_lead", "_plan", "_question")

    def __init__(
        self, caching: AnswerCaching, question: Question, plan: Plan, call: ModelRequest, lead: Lead | None
    ) -> None:
        self._caching = caching
        self._question = question
        self._plan = plan
        self._call = call
        self._lead = lead
        self._assembly: StreamAssembly | None = None

    def whole(self, reply: Reply) -> None:
        """Take an answer that came at once."""
        assert isinstance(reply.body, bytes)
        plain = reply.status == 200 and not any(name == b"content-encoding" for name, _ in reply.headers)
        self._end(reply.body if plain and not self._call.stream else None)

    def feed(self, chunk: bytes) -> None:
        """Take a part of a stream."""
        if self._assembly is None:
            self._assembly = StreamAssembly(self._call.operation, self._caching.entry_max_bytes)
        self._assembly.feed(chunk)

    def streamed(self) -> None:
        """Take the end of a stream, which came whole."""
        if self._assembly is not None and self._call.stream:
            self._end(self._assembly.whole())
            self._assembly = None

    def _end(self, body: bytes | None) -> None:
        kept: StoredAnswer | None = None
        if body is not None:
            # The client's own cap, not one that a budget set later.
            capped = self._call.max_tokens is not None
            kept = self._caching.store(self._question, body, self._plan, capped=capped)
        if self._lead is not None:
            self._lead.end(kept)


def _headers(ctx: Context) -> tuple[bytes | None, bytes | None, bytes, bytes | None]:
    """Return the first ``x-hx-cache`` and ``cache-control``, every ``openai-beta``, and the first similarity.

    One of the betas is passed on.
    """
    word: bytes | None = None
    control: bytes | None = None
    near: bytes | None = None
    beta = b""
    for name, value in ctx.headers:
        if name == _HEADER:
            word = value if word is None else word
        elif name == b"cache-control":
            control = value if control is None else control
        elif name == _SIMILARITY_HEADER:
            near = value if near is None else near
        elif name == _BETA:
            beta += value + b"\n"
    return word, control, beta, near


def _question(ctx: Context, call: ModelRequest, plan: Plan, beta: bytes) -> Question | None:
    """Return what is asked and by whom; ``None`` where it cannot be compared."""
    written = ctx.written
    body = written.canonical if written is not None else None
    if body is None:
        body = canonical(call.body)
    if body is None:
        return None
    if written is not None:
        written.canonical = body
    principal = ctx.principal
    assert principal is not None
    partition = partition_of(
        plan.scope,
        tenant_id=principal.tenant_id,
        team_id=principal.team_id,
        user_id=principal.user_id,
        key_id=principal.key_id,
    )
    asked = (call.operation, call.model, _served(ctx.candidates), beta)
    return Question(
        tenant_id=principal.tenant_id,
        partition=partition,
        namespace=plan.namespace,
        key_id=principal.key_id,
        operation=call.operation,
        model=call.model,
        body=call.body,
        digest=digest_of(partition, plan.namespace, asked, body),
        wording=_wording(call, plan, partition, asked) if plan.by_meaning else None,
    )


def _wording(call: ModelRequest, plan: Plan, partition: str, asked: tuple[str | bytes, ...]) -> Wording | None:
    """Return how a request is worded; ``None`` for one that is not compared by its meaning."""
    parts = take_apart(call)
    if parts is None:
        return None
    text, rest = parts
    frame = canonical(rest.body)
    if frame is None:
        return None
    return Wording(identity=digest_of(partition, plan.namespace, asked, frame), text=text, similarity=plan.similarity)


def _served(candidates: tuple[Deployment, ...]) -> str:
    """Return which models may answer: a name that comes to stand for another one has other answers."""
    if len(candidates) == 1:
        return candidates[0].model
    return "\n".join(sorted({candidate.model for candidate in candidates}))
