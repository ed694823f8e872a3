"""Routes say who may use them, and every path finds exactly one."""

from __future__ import annotations

import pytest

from hx_gateway.errors import InvalidRequest, MethodNotAllowed
from hx_gateway.pipeline.routes import (
    ANYONE,
    BodyRule,
    RouteError,
    RouteSpec,
    RouteTable,
    check_target,
    under,
)
from tests.unit.pipeline.doubles import answer, context, route


def test_a_route_without_a_policy_cannot_be_made() -> None:
    with pytest.raises(RouteError, match="'open' has no policy"):
        RouteSpec(name="open", methods=frozenset({"GET"}), path="/open", policy=None, handler=answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": frozenset()}, "no method"),
        ({"path": "thing"}, "does not start with"),
        ({"handler": None}, "needs a handler"),
        ({"decoder": lambda data: data, "handler": None, "body": BodyRule.NONE}, "decodes a body"),
    ],
)
def test_a_route_whose_parts_do_not_fit_cannot_be_made(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {
        "name": "x",
        "methods": frozenset({"GET"}),
        "path": "/x",
        "policy": ANYONE,
        "handler": answer,
    }
    with pytest.raises(RouteError, match=words):
        RouteSpec(**{**given, **change})  # type: ignore[arg-type]


def test_two_routes_for_one_path_and_method_cannot_be_registered() -> None:
    with pytest.raises(RouteError, match="registered twice"):
        RouteTable([route("a"), route("b")])
    with pytest.raises(RouteError, match="named 'a'"):
        RouteTable([route("a"), route("a", "/other")])


def table() -> RouteTable:
    paths = {"exact": "/v1/models", "one": "/v1/models/{model}", "v1": "/v1/{path}", "rest": "/{path}"}
    return RouteTable([route(name, path) for name, path in paths.items()])


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/v1/models", "exact", {}),
        ("/v1/models/a/b", "one", {"model": "a/b"}),
        ("/v1/modelsmith", "v1", {"path": "modelsmith"}),
        ("/v1/files/1", "v1", {"path": "files/1"}),
        ("/V1/models", "rest", {"path": "V1/models"}),
    ],
)
def test_the_most_specific_route_is_found(path: str, name: str, parameters: dict[str, str]) -> None:
    ctx = context(path)
    table().match(ctx)
    assert (ctx.route.name, ctx.path_params) == (name, parameters)


def test_a_wrong_method_is_told_which_are_right() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        table().match(context("/v1/models", method="DELETE"))
    assert caught.value.headers == {"allow": "GET"}


def test_head_is_answered_where_get_is() -> None:
    ctx = context("/v1/models", method="HEAD")
    table().match(ctx)
    assert ctx.route.name == "exact"


@pytest.mark.parametrize(
    "target",
    [
        b"//v1/keys",
        b"/v1//keys",
        b"/v1/./keys",
        b"/v1/x/../keys",
        b"/v1/%2e%2e/keys",
        b"/v1/keys;a=b",
        b"/v1/x/..",
        b"/v1%2fkeys",
        b"/v1/files/a%2Fb",
        b"/v1\\keys",
        b"/v1/%5ckeys",
        b"/v1/keys%00",
        b"/v1/keys%3Bx",
        b"/v0.1/servers%2fio.x/y",
        b"/v0.1/servers/%2fio.x",
        b"/v0.1/servers/io.x%2F",
        b"/v0.1/servers/io.x%2F/versions",
        b"/v0.1/servers/io.x%2Fy%2Fversions",
        b"/v0.1/servers/io.x%2Fy/versions/1%2f2",
        b"/v0.1/servers/io.x/y%2fversions",
        b"/v0.1/servers/..%2f..%2fv1%2fkeys",
        b"/v0.1/servers/..%2fkeys",
        b"/v0.1/servers/.%2Fkeys",
        b"/v0.1/servers/io.x%2F..",
        b"/v0.1/servers/io.x%2F.",
        b"/v0.1/servers/io.x%2F%2e%2e",
        b"/v0.1/servers/io_x%2Fy",
        b"/v0.1/servers/io.x%2Fy;a/versions",
        b"/v0.1/servers/io.x%252Fy%2Fz",
        b"/v0.1/publish%2Fx",
        b"/v0.1/other/io.x%2Fy",
        b"/V0.1/servers/io.x%2Fy",
        b"/v0x1/servers/io.x%2Fy",
        b"/v0.2/servers/io.x%2Fy",
        b"/x/v0/servers/io.x%2Fy",
    ],
)
def test_a_target_that_two_servers_read_differently_is_refused(target: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_target(target)
    assert caught.value.code == "ambiguous_path"


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/v1/models/openai%2Fgpt-4o",
        b"/v1/files/report.v1.txt",
        b"/a.b/..c",
        b"/v1/keys/",
        b"/v0.1/servers/io.x%2Fy/versions/1.0.0%2B5",
        b"/v0/servers/io.github.acme-inc%2fmail_2.x/versions",
        b"/v0.1/servers/io.x%2Fy",
        b"/v0.1/servers/io.x/y/status",
    ],
)
def test_a_plain_target_is_accepted(target: bytes) -> None:
    check_target(target)


@pytest.mark.parametrize(
    ("path", "guarded"),
    [
        ("/v1/keys", True),
        ("/v1/keys/", True),
        ("/v1/keys/1", True),
        ("/v1/keysmith", False),
        ("/v1/key", False),
    ],
)
def test_prefixes_match_whole_segments(path: str, guarded: bool) -> None:
    assert under(path, ("/v1/keys", "/v1/teams")) is guarded
