"""What is configured decides; a request can only narrow it."""

from __future__ import annotations

from typing import Any

import pytest

from hx_gateway.cache.policy import CacheDefaults, Plan, plan_for
from hx_gateway.cache_rules import CacheAsk, CacheMode, CacheRule, CacheScope
from hx_gateway.errors import InvalidRequest

OFF, ASK, EXACT = CacheMode.OFF, CacheMode.ASK, CacheMode.EXACT
ON = Plan(ttl_seconds=600, scope=CacheScope.TENANT)
ASKED = Plan(ttl_seconds=600, scope=CacheScope.TENANT, asked_only=True)


def wished(plan: Plan = ON, header: bytes | None = None, control: bytes | None = None, **ask: Any) -> Plan | None:
    return plan_for(plan, CacheAsk(**ask) if ask else None, header, control)


@pytest.mark.parametrize(
    ("general", "model", "key", "on"),
    [
        (OFF, None, None, False),
        (EXACT, None, None, True),
        (OFF, EXACT, None, True),
        (OFF, None, EXACT, True),
        (EXACT, None, OFF, False),
        (EXACT, OFF, None, False),
        (EXACT, OFF, EXACT, False),
        (EXACT, EXACT, OFF, False),
    ],
)
def test_the_key_is_heard_before_the_model_and_off_of_either_is_final(
    general: CacheMode, model: CacheMode | None, key: CacheMode | None, on: bool
) -> None:
    defaults = CacheDefaults(mode=general, models={"m": CacheRule(mode=model)})
    assert (defaults.plan_of(CacheRule(mode=key) if key else None, "m") is not None) is on


def test_what_nobody_says_is_taken_from_the_next() -> None:
    defaults = CacheDefaults(
        mode=EXACT, ttl_seconds=1, scope=CacheScope.USER, models={"m": CacheRule(ttl_seconds=2, scope=CacheScope.TEAM)}
    )
    plans = [
        defaults.plan_of(rule, model) for rule, model in ((None, "other"), (None, "m"), (CacheRule(EXACT, 3), "m"))
    ]
    assert [(plan.ttl_seconds, plan.scope.value) for plan in plans if plan] == [(1, "user"), (2, "team"), (3, "team")]


def test_a_request_that_asks_for_nothing_gets_what_is_planned() -> None:
    assert wished() is ON
    assert wished(control=b"max-stale=5, private") == ON


@pytest.mark.parametrize("wish", [{"header": b"on"}, {"use_cache": True}, {"header": b" ON "}])
def test_where_it_is_for_those_who_ask_a_request_must_ask(wish: dict[str, Any]) -> None:
    assert wished(ASKED) is None
    assert wished(ASKED, namespace="n") is None
    assert wished(ASKED, control=b"no-store") is None
    plan = wished(ASKED, **wish)
    assert plan is not None
    assert (plan.look_up, plan.keep) == (True, True)


@pytest.mark.parametrize(
    ("wish", "look_up", "keep"),
    [
        ({"header": b"off"}, False, False),
        ({"header": b"refresh"}, False, True),
        ({"use_cache": False}, False, False),
        ({"no_cache": True}, False, True),
        ({"no_store": True}, True, False),
        ({"control": b"No-Cache"}, False, True),
        ({"control": b"no-store"}, True, False),
        ({"control": b"no-cache, no-store"}, False, False),
        ({"control": b"no-store", "no_cache": True}, False, False),
        ({"header": b"on", "no_cache": True}, False, True),
        ({"header": b"off", "use_cache": True}, False, False),
    ],
)
def test_the_strictest_wish_holds(wish: dict[str, Any], look_up: bool, keep: bool) -> None:
    plan = wished(**wish)
    assert plan is not None
    assert (plan.look_up, plan.keep) == (look_up, keep)


@pytest.mark.parametrize(
    ("wish", "age"),
    [
        ({"control": b"max-age=5"}, 5),
        ({"control": b'no-transform , Max-Age = "7"'}, 7),
        ({"control": b"max-age=soon"}, 0),
        ({"control": b"max-age=-1"}, 0),
        ({"control": b"max-age"}, 0),
        ({"control": b"max-age=99999999999999999999"}, 999_999_999),
        ({"control": b"x-max-age=5"}, None),
        ({"control": b"max-age=9", "s_maxage": 4}, 4),
        ({"s_maxage": 0}, 0),
    ],
)
def test_how_old_an_answer_may_be(wish: dict[str, Any], age: int | None) -> None:
    plan = wished(**wish)
    assert plan is not None
    assert plan.max_age_seconds == age


def test_a_time_to_live_can_only_be_shorter_and_never_wider_shared() -> None:
    shorter, longer = wished(ttl=5), wished(ttl=5000, namespace="n")
    assert shorter is not None
    assert longer is not None
    assert (shorter.ttl_seconds, longer.ttl_seconds, longer.namespace) == (5, 600, "n")
    assert longer.scope is CacheScope.TENANT


@pytest.mark.parametrize("header", [b"", b"yes", b"\xff\x00", b"on, off"])
def test_an_unknown_word_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wished(header=header)
    assert (caught.value.param, caught.value.code) == ("x-hx-cache", "invalid_value")


@pytest.mark.parametrize(
    ("own", "general", "of_model", "team", "alone"),
    [
        (None, "tenant", None, None, False),
        ("key", "tenant", None, "tm-1", True),
        (None, "key", None, "tm-1", True),
        (None, "tenant", "key", "tm-1", True),
        ("tenant", "key", "key", None, False),
        ("team", "tenant", None, None, True),
        ("team", "tenant", None, "tm-1", False),
        ("user", "tenant", None, "tm-1", True),
    ],
)
def test_a_key_is_alone_by_its_own_scope_or_where_it_lacks_what_is_shared(
    own: str | None, general: str, of_model: str | None, team: str | None, alone: bool
) -> None:
    models = {"m": CacheRule(scope=CacheScope(of_model))} if of_model is not None else {}
    defaults = CacheDefaults(scope=CacheScope(general), models=models)
    scope = CacheScope(own) if own is not None else None
    assert defaults.may_be_alone(scope, team_id=team, user_id=None) is alone
