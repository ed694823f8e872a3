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


def rate_headers(limits: Sequence[ScopeLimits], verdict: Verdict) -> dict[str, str]:
    """Return the headers of the scope with the least left, of requests and of tokens; none where there is no limit.

    ``remaining`` is what could be used at once; ``limit`` is what a minute allows.
    """
    headers: dict[str, str] = {}
    tightest = _tightest([scope.requests for scope in limits], verdict.requests)
    if tightest is not None:
        rate, state = tightest
        headers["x-ratelimit-limit-requests"] = str(rate.per_minute)
        headers["x-ratelimit-remaining-requests"] = str(max(0, state.left))
        headers["x-ratelimit-reset-requests"] = duration_text(state.full_in_us)
    tightest = _tightest([scope.tokens for scope in limits], verdict.tokens)
    if tightest is not None:
        rate, state = tightest
        headers["x-ratelimit-limit-tokens"] = str(rate.per_minute)
        headers["x-ratelimit-remaining-tokens"] = str(max(0, state.left))
        headers["x-ratelimit-reset-tokens"] = duration_text(state.full_in_us)
    return headers


def duration_text(microseconds: int) -> str:
    """Return a duration as ``12ms``, ``1s``, ``8.64s``, ``6m0s`` or ``1h0m0s``, rounded up to the millisecond."""
    left = -(-max(0, microseconds) // MILLISECOND_US)
    if left < SECOND_MS:
        return f"{left}ms" if left else "0s"
    hours, left = divmod(left, HOUR_MS)
    minutes, left = divmod(left, MINUTE_MS)
    seconds = f"{left / SECOND_MS:.3f}".rstrip("0").rstrip(".")
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _tightest(rates: Sequence[Rate | None], states: Sequence[RateState | None]) -> tuple[Rate, RateState] | None:
    """Return the bucket with the least left; of several, the one that takes longest to be full again."""
    found: tuple[Rate, RateState] | None = None
    for rate, state in zip(rates, states, strict=False):
        if rate is None or state is None:
            continue
        if found is None or (state.left, -state.full_in_us) < (found[1].left, -found[1].full_in_us):
            found = (rate, state)
    return found
