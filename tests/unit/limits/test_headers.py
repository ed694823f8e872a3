"""The rate limit headers, as the OpenAI clients read them."""

from __future__ import annotations

import pytest

from hx_gateway.allowances import Rate, ScopeKind, ScopeLimits
from hx_gateway.limits.headers import duration_text, rate_headers
from hx_gateway.limits.model import Outcome, RateState, Verdict


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (12_000, "12ms"),
        (12_001, "13ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (8_640_000, "8.64s"),
        (59_999_500, "1m0s"),
        (360_000_000, "6m0s"),
        (90_951_000, "1m30.951s"),
        (3_600_000_000, "1h0m0s"),
        (-5, "0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(microseconds: int, text: str) -> None:
    assert duration_text(microseconds) == text


def shown(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def test_the_scope_with_the_least_left_is_shown() -> None:
    key = ScopeLimits(kind=ScopeKind.KEY, id="k", requests=Rate(60, 60), tokens=Rate(1000, 1000))
    team = ScopeLimits(kind=ScopeKind.TEAM, id="t", requests=Rate(600, 600))
    verdict = Verdict(
        outcome=Outcome.ADMITTED,
        now_us=0,
        requests=(RateState(left=50, full_in_us=10), RateState(left=3, full_in_us=60_000_000)),
        tokens=(RateState(left=900, full_in_us=6_000_000), None),
    )
    assert shown(rate_headers((key, team), verdict)) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
    }


def test_nothing_is_shown_where_nothing_is_limited() -> None:
    scope = ScopeLimits(kind=ScopeKind.KEY, id="k", parallel=3)
    assert rate_headers((scope,), Verdict(outcome=Outcome.ADMITTED, now_us=0, requests=(None,), tokens=(None,))) == []
    assert rate_headers((), Verdict(outcome=Outcome.STALE, now_us=0)) == []
