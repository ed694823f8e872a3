"""Security: who is let in, and in which words the others are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.principal import DEFAULT_TENANT, KeyId, Principal, Role, Scope
from hx_gateway.access.throttle import FailureThrottle, TooManyFailures
from hx_gateway.errors import Forbidden, InvalidApiKey, InvalidRequest, Unavailable
from hx_gateway.pipeline.context import Context
from hx_gateway.pipeline.routes import (
    ANYONE,
    LOCAL_OR_ADMIN,
    BodyRule,
    Policy,
    RouteSpec,
    needs,
    needs_role,
    open_to_all,
)
from hx_gateway.pipeline.stages.security import SecurityStage
from hx_gateway.translate.openai import decode_chat
from tests.unit.pipeline.doubles import context, route

KEY = "a-long-admin-key-for-tests-0123456789"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
STAGE = SecurityStage(AdminKeyAuthenticator(KEY))


def request(policy: Policy, *headers: tuple[bytes, bytes], local: bool = False) -> Context:
    return context(headers=headers, spec=route(policy=policy), local=local)


@pytest.mark.parametrize("header", [BEARER, (b"x-api-key", KEY.encode()), (b"api-key", KEY.encode())])
async def test_the_key_is_read_from_each_header_that_clients_use(header: tuple[bytes, bytes]) -> None:
    ctx = request(needs(Scope.ADMIN), header)
    assert await STAGE(ctx) is None
    assert ctx.principal is not None
    assert ctx.principal.key_id == "admin"


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer wrong"),
        (b"authorization", KEY.encode()),
        (b"authorization", b"Basic " + KEY.encode()),
        (b"authorization", b"Bearer "),
        (b"x-api-key", b"\xff\xfe"),
        (b"authorization", b"Bearer " + b"x" * 9000),
    ],
)
async def test_anything_but_the_key_is_a_401(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        await STAGE(request(needs(), header))
    assert caught.value.headers == {"www-authenticate": "Bearer"}


async def test_no_key_is_a_401_that_says_how_to_send_one() -> None:
    with pytest.raises(InvalidApiKey, match="Authorization: Bearer"):
        await STAGE(request(needs()))


async def test_where_a_key_is_not_needed_nobody_is_somebody() -> None:
    ctx = request(open_to_all(Scope.REGISTRY_READ))
    assert await STAGE(ctx) is None
    assert ctx.principal is None


async def test_where_a_key_is_not_needed_one_that_is_shown_is_looked_at_all_the_same() -> None:
    ctx = request(open_to_all(Scope.REGISTRY_READ), BEARER)
    assert await STAGE(ctx) is None
    assert ctx.principal is not None
    with pytest.raises(InvalidApiKey):
        await STAGE(request(open_to_all(Scope.REGISTRY_READ), (b"authorization", b"Bearer wrong")))


async def test_two_different_keys_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        await STAGE(request(needs(), BEARER, (b"x-api-key", b"another")))
    assert caught.value.code == "ambiguous_key"


async def test_a_known_key_without_the_right_is_a_403_that_names_it() -> None:
    class Reader:
        async def authenticate(self, presented: str) -> Principal | None:
            return Principal(key_id=KeyId("k1"), tenant_id=DEFAULT_TENANT, scopes=frozenset({Scope.MODELS}))

    with pytest.raises(Forbidden, match="'admin'"):
        await SecurityStage(Reader())(request(needs(Scope.ADMIN), BEARER))


async def test_who_cannot_be_asked_is_not_a_401() -> None:
    class Away:
        async def authenticate(self, presented: str) -> Principal | None:
            raise Unavailable("Gateway dependency unavailable: PostgreSQL.")

    with pytest.raises(Unavailable):
        await SecurityStage(Away())(request(needs(), BEARER))


async def test_open_routes_ask_for_no_key() -> None:
    assert await STAGE(request(ANYONE)) is None


async def test_health_details_are_for_this_machine_or_the_admin_key() -> None:
    assert await STAGE(request(LOCAL_OR_ADMIN, local=True)) is None
    assert await STAGE(request(LOCAL_OR_ADMIN, BEARER)) is None
    with pytest.raises(InvalidApiKey):
        await STAGE(request(LOCAL_OR_ADMIN))
    with pytest.raises(InvalidApiKey):
        await STAGE(request(LOCAL_OR_ADMIN, (b"authorization", b"Bearer wrong"), local=True))


async def test_browsers_get_no_permission_by_default() -> None:
    ctx = request(ANYONE, (b"origin", b"https://app.example.org"))
    await STAGE(ctx)
    assert ctx.response_headers == []


async def test_an_allowed_origin_may_call_and_others_may_not() -> None:
    stage = SecurityStage(AdminKeyAuthenticator(KEY), cors_origins=("https://app.example.org",))
    ctx = request(ANYONE, (b"origin", b"https://app.example.org"))
    await stage(ctx)
    assert (b"access-control-allow-origin", b"https://app.example.org") in ctx.response_headers
    other = request(ANYONE, (b"origin", b"https://evil.example.org"))
    await stage(other)
    assert other.response_headers == []


async def test_a_preflight_is_answered_without_a_key() -> None:
    stage = SecurityStage(AdminKeyAuthenticator(KEY), cors_origins=("https://app.example.org",))
    headers = ((b"origin", b"https://app.example.org"), (b"access-control-request-method", b"POST"))
    reply = await stage(context(method="OPTIONS", headers=headers, spec=route(policy=needs(Scope.ADMIN))))
    assert reply is not None
    assert reply.status == 204


class Known:
    """Lets everybody in as one principal."""

    def __init__(self, **about: Any) -> None:
        plain = Principal(key_id=KeyId("k1"), tenant_id=DEFAULT_TENANT, scopes=frozenset(Scope) - {Scope.ADMIN})
        self.principal = replace(plain, **about)

    async def authenticate(self, presented: str) -> Principal | None:
        return self.principal


@pytest.mark.parametrize("role", list(Role))
async def test_a_route_for_roles_is_for_these_and_for_platform_admins(role: Role) -> None:
    ctx = request(needs_role(Role.TENANT_ADMIN, Role.TEAM_ADMIN), BEARER)
    stage = SecurityStage(Known(role=role))
    if role in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN, Role.TEAM_ADMIN):
        assert await stage(ctx) is None
    else:
        with pytest.raises(Forbidden, match=role.value):
            await stage(ctx)


async def test_the_admin_key_has_the_most_powerful_role() -> None:
    assert await STAGE(request(needs_role(), BEARER)) is None


async def test_a_route_that_names_no_role_is_for_all_of_them() -> None:
    for role in Role:
        assert await SecurityStage(Known(role=role))(request(needs(Scope.EVENTS_READ), BEARER)) is None


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", True),
        ("/v1/chat/completions/x", True),
        ("/v1/chat", False),
        ("/v1/embeddings", False),
        ("/V1/chat/completions", False),
    ],
)
async def test_a_key_confined_to_routes_takes_no_other(path: str, allowed: bool) -> None:
    ctx = context(path, headers=(BEARER,), spec=route(path=path, policy=needs(Scope.MODELS)))
    stage = SecurityStage(Known(allowed_routes=(("/v1/chat/*",),)))
    if allowed:
        assert await stage(ctx) is None
    else:
        with pytest.raises(Forbidden) as caught:
            await stage(ctx)
        assert caught.value.code == "route_not_allowed"
        assert ctx.principal is None


async def test_a_key_confined_to_no_route_takes_none() -> None:
    with pytest.raises(Forbidden):
        await SecurityStage(Known(allowed_routes=((),)))(request(needs(), BEARER))


async def test_whoever_may_only_read_may_see_the_models_and_call_none() -> None:
    stage = SecurityStage(Known(role=Role.READ_ONLY))
    calls = RouteSpec(
        name="chat",
        methods=frozenset({"POST"}),
        path="/v1/chat/completions",
        policy=needs(Scope.MODELS),
        body=BodyRule.JSON,
        decoder=decode_chat,
    )
    for spec in (calls, route(policy=needs(Scope.PASSTHROUGH))):
        with pytest.raises(Forbidden, match="reading only"):
            await stage(context(headers=(BEARER,), spec=spec))
    assert await stage(request(needs(Scope.MODELS), BEARER)) is None


async def test_wrong_keys_are_told_to_wait_and_a_right_one_from_there_is_let_in() -> None:
    stage = SecurityStage(AdminKeyAuthenticator(KEY), throttle=FailureThrottle(max_failures=3))
    wrong = (b"authorization", b"Bearer wrong")
    for _ in range(3):
        with pytest.raises(InvalidApiKey):
            await stage(request(needs(), wrong))
    with pytest.raises(TooManyFailures) as caught:
        await stage(request(needs(), wrong))
    assert 0 < int(caught.value.headers["retry-after"]) <= 60
    assert await stage(request(needs(), BEARER)) is None


async def test_a_key_that_expired_counts_as_a_failure_and_one_that_cannot_be_checked_does_not() -> None:
    class Expired:
        async def authenticate(self, presented: str) -> Principal | None:
            raise InvalidApiKey("The API key has expired.", code="key_expired")

    class Away:
        async def authenticate(self, presented: str) -> Principal | None:
            raise Unavailable("Gateway dependency unavailable: PostgreSQL.")

    throttle = FailureThrottle(max_failures=1)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await SecurityStage(Away(), throttle=throttle)(request(needs(), BEARER))
    with pytest.raises(InvalidApiKey) as caught:
        await SecurityStage(Expired(), throttle=throttle)(request(needs(), BEARER))
    assert caught.value.code == "key_expired"
    with pytest.raises(TooManyFailures):
        await SecurityStage(Expired(), throttle=throttle)(request(needs(), BEARER))


async def test_no_key_at_all_is_no_guess() -> None:
    stage = SecurityStage(AdminKeyAuthenticator(KEY), throttle=FailureThrottle(max_failures=1))
    for _ in range(5):
        with pytest.raises(InvalidApiKey):
            await stage(request(needs()))
