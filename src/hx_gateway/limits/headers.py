"""The ``x-ratelimit-*`` headers of an answer, in OpenAI's form.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    requests = zip((scope.requests for scope in limits), verdict.requests, strict=False)
    tokens = zip((scope.tokens for scope in limits), verdict.tokens, strict=False)
    for name, states in (("requests", requests), ("tokens", tokens)):
        tightest = _tightest(states)
        if tightest is not None:
            rate, state = tightest
            headers[f"x-ratelimit-limit-{name}"] = str(rate.per_minute)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, state.left))
            headers[f"x-ratelimit-reset-{name}"] = duration_text(state.full_in_us)
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


def _tightest(states: Iterable[tuple[Rate | None, RateState | None]]) -> tuple[Rate, RateState] | None:
    known = [(rate, state) for rate, state in states if rate is not None and state is not None]
    return min(known, key=lambda pair: (pair[1].left, -pair[1].full_in_us), default=None)
