"""Who is answered by meaning, and how near is near enough for whom."""

from __future__ import annotations

import pytest

from hx_gateway.cache.policy import CacheDefaults, Plan, plan_for
from hx_gateway.cache_rules import CacheAsk, CacheMode, CacheRule
from hx_gateway.errors import InvalidRequest

DEFAULTS = {mode: CacheDefaults(mode=mode, similarity=0.9) for mode in CacheMode}


def plan(
    mode: CacheMode, word: bytes | None = None, near: bytes | None = None, ask: CacheAsk | None = None
) -> Plan | None:
    planned = DEFAULTS[mode].plan_of(None, "m")
    if planned is None:
        return None
    return plan_for(planned, ask, word, None, similarity=near)


def told(plan: Plan | None) -> tuple[bool, float] | None:
    return None if plan is None else (plan.by_meaning, plan.similarity)


def test_the_mode_says_whether_and_the_setting_how_near() -> None:
    assert told(plan(CacheMode.MEANING)) == (True, 0.9)
    assert told(plan(CacheMode.EXACT)) == (False, 0.9)
    assert told(plan(CacheMode.ASK)) is None
    assert told(plan(CacheMode.OFF)) is None


def test_a_request_may_ask_for_it_and_say_how_near() -> None:
    for mode in (CacheMode.MEANING, CacheMode.EXACT, CacheMode.ASK):
        assert told(plan(mode, b"meaning")) == (True, 0.9)
        assert told(plan(mode, None, b"0.5")) == (True, 0.5)
        assert told(plan(mode, b"meaning", b" 1.0 ")) == (True, 1.0)
        assert told(plan(mode, None, b"0")) == (True, 0.0)
    assert told(plan(CacheMode.OFF, b"meaning", b"0")) is None
    assert told(plan(CacheMode.ASK, b"on")) == (False, 0.9)


def test_off_is_off_however_near() -> None:
    for asked in (
        plan(CacheMode.MEANING, b"off", b"0.5"),
        plan(CacheMode.MEANING, None, b"0.5", CacheAsk(use_cache=False)),
    ):
        assert asked is not None
        assert (asked.look_up, asked.keep) == (False, False)


def test_a_key_s_word_comes_before_its_model_s_and_that_before_the_gateway_s() -> None:
    defaults = CacheDefaults(mode=CacheMode.EXACT, models={"m": CacheRule(mode=CacheMode.MEANING)})
    assert told(defaults.plan_of(None, "m")) == (True, 0.95)
    assert told(defaults.plan_of(None, "other")) == (False, 0.95)
    assert told(defaults.plan_of(CacheRule(mode=CacheMode.EXACT), "m")) == (False, 0.95)


@pytest.mark.parametrize("near", [b"", b"-0", b"1.01", b"2", b".5", b"nan", b"inf", b"1e0", b"0,5", b"0.5x", b"\xb2"])
def test_what_is_no_similarity_is_refused(near: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        plan(CacheMode.MEANING, None, near)
    assert refusal.value.param == "x-hx-cache-similarity"
