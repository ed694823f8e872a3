"""Security: who is let in, and in which words the others are refused."""

from __future__ import annotations

import pytest

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.principal import DEFAULT_TENANT, KeyId, Principal, Scope
from hx_gateway.errors import Forbidden, InvalidApiKey, InvalidRequest, Unavailable
from hx_gateway.pipeline.context import Context
from hx_gateway.pipeline.routes import ANYONE, LOCAL_OR_ADMIN, Policy, needs
from hx_gateway.pipeline.stages.security import SecurityStage
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
