"""The ``x-ratelimit-*`` headers of an answer, in OpenAI's form.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

from collections.abc import Sequence

from hx_gateway.allowances import Rate, ScopeLimits
from hx_gateway.limits.model import RateState, Verdict

MILLISECOND_US = 1_000
SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS


Header = tuple[bytes, bytes]

_OF_REQUESTS, _OF_TOKENS = (
    tuple([f"x-ratelimit-{what}-{unit}".encode("ascii") for what in ("limit", "remaining", "reset")])
    for unit in ("requests", "tokens")
)


def rate_headers(limits: Sequence[ScopeLimits], verdict: Verdict) -> list[Header]:
    """Return the headers of the scope with the least left, of requests and of tokens; none where there is no limit.

    ``remaining`` is what could be used at once; ``limit`` is what a minute allows.
    """
    requests = tokens = limit_requests = limit_tokens = None
    for scope, of_requests, of_tokens in zip(limits, verdict.requests, verdict.tokens, strict=False):
        if of_requests is not None and (requests is None or _tighter(of_requests, requests)):
            requests, limit_requests = of_requests, scope.requests
        if of_tokens is not None and (tokens is None or _tighter(of_tokens, tokens)):
            tokens, limit_tokens = of_tokens, scope.tokens
    headers: list[Header] = []
    if requests is not None and limit_requests is not None:
        _add(headers, _OF_REQUESTS, limit_requests, requests)
    if tokens is not None and limit_tokens is not None:
        _add(headers, _OF_TOKENS, limit_tokens, tokens)
    return headers


def duration_text(microseconds: int) -> str:
    """Return a duration as ``12ms``, ``1s``, ``8.64s``, ``6m0s`` or ``1h0m0s``, rounded up to the millisecond."""
    if microseconds <= 0:
        return "0s"
    left = -(-microseconds // MILLISECOND_US)
    if left < SECOND_MS:
        return f"{left}ms"
    hours, left = divmod(left, HOUR_MS)
    minutes, left = divmod(left, MINUTE_MS)
    seconds = f"{left / SECOND_MS:.3f}".rstrip("0").rstrip(".")
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _tighter(state: RateState, than: RateState) -> bool:
    """Return whether a bucket has less left than another one; of two that have the same, takes longer to be full."""
    return (state.left, -state.full_in_us) < (than.left, -than.full_in_us)


def _add(headers: list[Header], names: Sequence[bytes], rate: Rate, state: RateState) -> None:
    limit, remaining, reset = names
    headers += (
        (limit, b"%d" % rate.per_minute),
        (remaining, b"%d" % state.left),
        (reset, duration_text(state.full_in_us).encode("ascii")),
    )
