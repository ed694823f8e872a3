"""The admin API through the pipeline: what the directory is asked, and how its answers and refusals look."""

from __future__ import annotations

from typing import Any

import pytest

from hx_gateway.access.resources import ResourceKind
from hx_gateway.errors import Forbidden, InvalidRequest, NotFound
from hx_gateway.http.bodies import MAX_BODY_BYTES
from hx_gateway.http.reserved import reserved_routes
from hx_gateway.services.base import DependencyError, FailureKind
from tests.unit.admin.asking import PREFIXES, SECRET, SHOWN, Asking

KINDS = {
    "/v1/tenants": ResourceKind.TENANT,
    "/v1/teams": ResourceKind.TEAM,
    "/v1/users": ResourceKind.USER,
    "/v1/keys": ResourceKind.KEY,
    "/v1/api_keys": ResourceKind.KEY,
}
BOOKKEEPING = {"created_at", "updated_at", "created_by", "updated_by", "deleted_at", "version"}


@pytest.fixture(scope="module")
def application() -> Asking:
    return Asking()


@pytest.fixture
def ask(application: Asking) -> Asking:
    application.forget()
    return application


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_object_is_made_and_its_place_is_told(ask: Asking, prefix: str) -> None:
    told = await ask("POST", prefix, {"name": "A"})
    assert told.status == 201
    assert told.headers["location"] == f"{prefix}/{told.json()['id']}"
    assert "x-hx-idempotent-replay" not in told.headers
    assert ask.directory.asked == [("create", KINDS[prefix], {"name": "A"}, None)]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_object_is_shown_changed_deleted_and_restored(ask: Asking, prefix: str) -> None:
    kind = KINDS[prefix]
    for method, path, body in (
        ("GET", "/one", None),
        ("PATCH", "/one", {"name": "B"}),
        ("DELETE", "/one", None),
        ("POST", "/one/restore", None),
    ):
        told = await ask(method, prefix + path, body)
        assert (told.status, told.json()["id"]) == (200, SHOWN[kind]["id"])
    assert ask.directory.asked == [
        ("get", kind, "one"),
        ("update", kind, "one", {"name": "B"}),
        ("delete", kind, "one"),
        ("restore", kind, "one"),
    ]


async def test_a_deleted_object_is_shown_to_who_asks_for_it(ask: Asking) -> None:
    await ask("GET", "/v1/keys/one?include_deleted=true")
    assert ask.directory.asked == [("get", ResourceKind.KEY, "one", "deleted too")]
    assert (await ask("GET", "/v1/keys/one?include_deleted=perhaps")).error["param"] == "include_deleted"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_list_is_a_page_with_its_cursor(ask: Asking, prefix: str) -> None:
    told = (await ask("GET", f"{prefix}?limit=3&sort=name&blocked=false&tag=a%20b&include_deleted=true")).json()
    assert (told["object"], told["next_cursor"], len(told["data"])) == ("list", "more", 1)
    query = ask.directory.asked[0][2]
    assert (query.limit, query.sort, query.filters) == (3, "name", {"blocked": "false", "tag": "a b"})
    assert query.include_deleted


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_what_is_shown_has_every_field_and_no_other(ask: Asking, prefix: str) -> None:
    shown = (await ask("GET", f"{prefix}/one")).json()
    assert shown.keys() == SHOWN[KINDS[prefix]].keys()
    assert shown.keys() > BOOKKEEPING
    assert "never shown" not in str(shown)
    assert SECRET not in str(shown)


async def test_limits_that_are_not_set_are_not_shown(ask: Asking) -> None:
    assert (await ask("GET", "/v1/keys/one")).json()["limits"] == {"rpm": 60, "tpm": 100_000}


@pytest.mark.parametrize(
    ("method", "path", "body", "asked"),
    [
        ("POST", "/v1/keys/k/rotate", None, ("rotate", "k", 0)),
        ("POST", "/v1/keys/k/rotate", {}, ("rotate", "k", 0)),
        ("POST", "/v1/keys/k/rotate", {"grace_seconds": 60}, ("rotate", "k", 60)),
        ("POST", "/v1/keys/k/block", None, ("block", "k")),
        ("POST", "/v1/api_keys/k/unblock", None, ("unblock", "k")),
        ("GET", "/v1/teams/t/members", None, ("members", "t")),
        ("PUT", "/v1/teams/t/members/u", {"role": "admin"}, ("set_member", "t", "u", "admin")),
        ("DELETE", "/v1/teams/t/members/u", None, ("remove_member", "t", "u")),
    ],
)
async def test_what_else_is_done_to_keys_and_teams(
    ask: Asking, method: str, path: str, body: object, asked: tuple[Any, ...]
) -> None:
    assert (await ask(method, path, body)).status == 200
    assert ask.directory.asked == [asked]


async def test_the_secret_is_in_the_answers_that_make_one(ask: Asking) -> None:
    assert (await ask("POST", "/v1/keys", {"name": "A"})).json()["key"] == SECRET
    assert (await ask("POST", "/v1/keys/k/rotate")).json()["key"] == SECRET
    assert "key" not in (await ask("PATCH", "/v1/keys/k", {"name": "A"})).json()


async def test_the_audit_log_is_a_list(ask: Asking) -> None:
    told = await ask("GET", "/v1/audit?action=rotated&tenant_id=acme")
    assert (told.status, told.json()["data"][0]["object_id"]) == (200, "madeUpKeyId1")
    assert ask.directory.asked[0][1].filters == {"action": "rotated", "tenant_id": "acme"}


async def test_a_creation_that_is_replayed_says_so(ask: Asking) -> None:
    ask.directory.replayed = True
    told = await ask("POST", "/v1/keys", {"name": "A"}, headers={"idempotency-key": "order 17"})
    assert (told.status, told.headers["x-hx-idempotent-replay"], told.json()["key"]) == (201, "true", None)
    assert "replayed" not in told.json()
    assert ask.directory.asked[0][3] == "order 17"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "umlaut \xe4"])
async def test_an_idempotency_key_is_short_and_printable(ask: Asking, key: str) -> None:
    told = await ask("POST", "/v1/keys", {"name": "A"}, headers={"idempotency-key": key})
    assert (told.status, told.error["param"]) == (422, "idempotency-key")
    assert ask.directory.asked == []


async def test_the_directory_knows_who_asks(ask: Asking) -> None:
    await ask("GET", "/v1/keys/k", key="member", headers={"x-request-id": "req_made_up_for_this"})
    actor = ask.directory.actors[0]
    assert (actor.principal.key_id, actor.request_id, actor.client) == ("member", "req_made_up_for_this", "192.0.2.7")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"name": "A"} {}', "invalid_json"),
        (b'{"name": NaN}', "invalid_json"),
        (b"[]", "not_an_object"),
        (b'"name"', "not_an_object"),
        (b'{"name": "A", "name": "B"}', "duplicate_key"),
        (b'{"name": "A", "metadata": ' + b'{"a":' * 70 + b"1" + b"}" * 71, "json_too_deep"),
        (b'{"name": "\\ud800"}', "lone_surrogate"),
        (b'{"name": "\xff"}', "invalid_utf8"),
        (b'\xef\xbb\xbf{"name": "A"}', "invalid_json"),
        (b'{"name": "A", "budgets": [{"limit_usd": 1e999, "period": "day"}]}', "number_not_finite"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/keys"), ("PATCH", "/v1/users/u")])
async def test_a_body_that_is_not_json_for_everybody_is_refused(
    ask: Asking, method: str, path: str, raw: bytes, code: str
) -> None:
    told = await ask(method, path, raw=raw)
    assert (told.status, told.error["code"]) == (400, code)
    assert ask.directory.asked == []


async def test_a_body_over_the_limit_is_refused(ask: Asking) -> None:
    told = await ask("POST", "/v1/keys", {"name": "A", "metadata": {"a": "x" * MAX_BODY_BYTES}})
    assert (told.status, told.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-encoding": "gzip"}, {"content-type": "multipart/form-data"}]
)
async def test_a_body_of_another_kind_is_refused(ask: Asking, headers: dict[str, str]) -> None:
    assert (await ask("POST", "/v1/keys", {"name": "A"}, headers=headers)).status == 415


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/json", "application/vnd.acme+json"])
async def test_every_name_of_json_is_understood(ask: Asking, kind: str) -> None:
    assert (await ask("POST", "/v1/keys", {"name": "A"}, headers={"content-type": kind})).status == 201


@pytest.mark.parametrize(
    ("path", "body", "field", "said"),
    [
        ("/v1/keys", {}, "name", "name: is missing."),
        ("/v1/keys", {"name": "A", "surprise": 1}, "surprise", "surprise: is not known here."),
        ("/v1/teams", {"name": "A", "limits": {"rpd": 1}}, "limits.rpd", "limits.rpd: is not known here."),
        ("/v1/teams", {"name": "A\x00"}, "name", "name: must not contain the character U+0000."),
        (
            "/v1/users",
            {"name": "A", "budgets": [{"limit_usd": -1, "period": "day"}]},
            "budgets.0.limit_usd",
            "budgets.0.limit_usd: must be between 0 and 9,000,000 dollars, not -1.",
        ),
    ],
)
async def test_a_field_that_breaks_its_rule_is_named(
    ask: Asking, path: str, body: object, field: str, said: str
) -> None:
    told = await ask("POST", path, body)
    assert (told.status, told.error["param"], told.error["message"]) == (422, field, said)
    assert (told.error["type"], told.error["code"]) == ("invalid_request_error", "invalid_request")
    assert told.headers["content-type"] == "application/json"
    assert ask.directory.asked == []


@pytest.mark.parametrize("query", ["colour=red", "limit=0", "limit=201", "sort=digest", "cursor=%00"])
async def test_a_parameter_that_breaks_its_rule_is_named(ask: Asking, query: str) -> None:
    told = await ask("GET", f"/v1/keys?{query}")
    assert (told.status, told.error["param"]) == (422, query.partition("=")[0])


@pytest.mark.parametrize("path", ["/v1/keys/a b", "/v1/users/" + "x" * 65, "/v1/teams/a'b", "/v1/teams/t/members/a b"])
async def test_an_id_that_cannot_be_one_is_not_found(ask: Asking, path: str) -> None:
    method = "DELETE" if "members" in path else "GET"
    told = await ask(method, path)
    assert (told.status, told.error["code"]) == (404, "not_found")
    assert ask.directory.asked == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/keys/k/secrets", "unknown_path"),
        ("GET", "/v1/keys/k/", "unknown_path"),
        ("POST", "/v1/teams/t/rotate", "unknown_path"),
        ("GET", "/v1/keys/k/rotate", "method_not_allowed"),
        ("POST", "/v1/keys/k", "method_not_allowed"),
        ("PUT", "/v1/keys", "method_not_allowed"),
        ("PUT", "/v1/keys/k", "method_not_allowed"),
        ("PATCH", "/v1/teams/t/members/u", "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_told_in_the_same_shape(ask: Asking, method: str, path: str, code: str) -> None:
    told = await ask(method, path)
    assert told.error["code"] == code
    assert told.status == (404 if code == "unknown_path" else 405)
    assert bool(told.headers.get("allow")) == (code == "method_not_allowed")


@pytest.mark.parametrize("role", ["member", "reader"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[(method, prefix) for prefix in PREFIXES for method in ("GET", "POST")],
        ("PATCH", "/v1/keys/k"),
        ("DELETE", "/v1/users/u"),
        ("POST", "/v1/keys/k/rotate"),
        ("POST", "/v1/keys/k/block"),
        ("PUT", "/v1/teams/t/members/u"),
        ("GET", "/v1/audit"),
    ],
)
async def test_who_administers_nothing_is_refused_before_the_body_is_read(
    ask: Asking, role: str, method: str, path: str
) -> None:
    told = await ask(method, path, raw=b"{", key=role)
    assert (told.status, told.error["code"]) == (403, "permission_denied")
    assert ask.directory.asked == []


@pytest.mark.parametrize("path", ["/v1/keys/k", "/v1/users/u", "/v1/teams/t"])
async def test_who_administers_nothing_may_ask_for_what_could_be_its_own(ask: Asking, path: str) -> None:
    assert (await ask("GET", path, key="member")).status == 200
    ask.directory.error = Forbidden("not yours")
    assert (await ask("GET", path, key="member")).status == 403


@pytest.mark.parametrize("key", [None, "nobody"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_valid_key_nothing_is_asked(ask: Asking, method: str, key: str | None) -> None:
    for prefix in (*PREFIXES, "/v1/audit"):
        told = await ask("GET" if prefix == "/v1/audit" else method, prefix, key=key)
        assert (told.status, told.error["code"]) == (401, "invalid_api_key")
    assert ask.directory.asked == []


@pytest.mark.parametrize(
    "error",
    [
        NotFound("There is no key 'k'.", param="id"),
        Forbidden("More than you have.", code="exceeds_grantor"),
        InvalidRequest("Both.", param="team_id"),
    ],
)
@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {"name": "A"}), ("DELETE", None)])
async def test_what_the_directory_refuses_is_told_and_counted(
    ask: Asking, error: Any, method: str, body: object
) -> None:
    ask.directory.error = error
    told = await ask(method, "/v1/keys/k", body)
    assert told.status == error.status
    assert told.error == {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    assert [event.error_code for event in ask.events.seen] == [error.code]


async def test_a_store_that_fails_meanwhile_is_named(ask: Asking) -> None:
    ask.directory.error = DependencyError("PostgreSQL", FailureKind.LOST)
    told = await ask("POST", "/v1/teams", {"name": "A"})
    assert (told.status, told.error["code"]) == (503, "dependency_unavailable")
    assert told.error["message"] == "Gateway dependency unavailable: PostgreSQL."
    assert told.headers["retry-after"]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_while_a_store_is_away_nothing_is_asked(ask: Asking, prefix: str) -> None:
    ask.postgres.is_healthy = False
    for path in (prefix, f"{prefix}/one"):
        assert (await ask("GET", path)).status == 503
    assert ask.directory.asked == []


async def test_each_route_has_a_label_of_its_own(ask: Asking) -> None:
    for method, path in (
        ("GET", "/v1/keys"),
        ("GET", "/v1/keys/k"),
        ("POST", "/v1/keys/k/rotate"),
        ("GET", "/v1/audit"),
    ):
        await ask(method, path)
    assert [event.route for event in ask.events.seen] == ["keys_list", "key_read", "key_action", "audit"]


async def test_errors_elsewhere_keep_their_shape(ask: Asking) -> None:
    told = await ask("GET", "/nothing")
    assert (told.status, told.headers["content-type"]) == (404, "application/problem+json")
    assert told.json()["code"] == "unknown_path"
    assert (await ask("GET", "/health/nothing")).json()["code"] == "not_found"


# The document


async def document(ask: Asking) -> dict[str, Any]:
    found = (await ask("GET", "/openapi.json", key=None)).json()
    assert isinstance(found, dict)
    return found


async def test_every_operation_is_documented_with_its_refusals_and_its_security(ask: Asking) -> None:
    paths = (await document(ask))["paths"]
    ours = {path: operations for path, operations in paths.items() if path.startswith("/v1/")}
    assert sum(len(operations) for operations in ours.values()) == 5 * 6 + 2 * 3 + 3 + 2
    for path, operations in ours.items():
        assert not path.endswith("{rest}")
        for method, operation in operations.items():
            assert operation["security"] == [{"key": []}], path
            made = "201" if method == "post" and path.count("/") == 2 else "200"
            assert {made, "400", "401", "403", "404", "409", "422", "503"} <= operation["responses"].keys()
            assert operation["summary"]
            assert operation["description"]


async def test_routes_for_anyone_are_documented_without_security(ask: Asking) -> None:
    paths = (await document(ask))["paths"]
    assert "security" not in paths["/healthz"]["get"]
    assert "security" not in paths["/openapi.json"]["get"]
    assert paths["/metrics"]["get"]["security"] == [{"key": []}]


async def test_bodies_and_answers_have_examples(ask: Asking) -> None:
    found = await document(ask)
    for prefix in PREFIXES:
        body = found["paths"][prefix]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["examples"]
    for name in ("Tenant", "Team", "User", "Key", "KeyWithSecret", "Member", "AuditEntry"):
        assert found["components"]["schemas"][name]["examples"]


async def test_the_examples_of_bodies_are_taken(ask: Asking) -> None:
    found = await document(ask)
    for prefix in PREFIXES:
        schema = found["paths"][prefix]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert (await ask("POST", prefix, schema["examples"][0])).status == 201
        schema = found["paths"][f"{prefix}/{{{KINDS[prefix].value}_id}}"]["patch"]["requestBody"]["content"]
        assert (await ask("PATCH", f"{prefix}/a", schema["application/json"]["schema"]["examples"][0])).status == 200


# Reserved paths


def test_what_is_built_is_reserved_no_more() -> None:
    names = {route.path for route in reserved_routes(PREFIXES, frozenset({"/v1/keys", "/v1/spend"}))}
    assert "/v1/teams" in names
    assert "/v1/vector_stores/{rest}" in names
    assert names.isdisjoint({"/v1/keys", "/v1/keys/{rest}", "/v1/spend", "/v1/spend/{rest}"})


def test_a_guarded_prefix_of_ones_own_stays_reserved() -> None:
    names = {route.path for route in reserved_routes(("/v1/keysmith",), frozenset({"/v1/keys"}))}
    assert {"/v1/keysmith", "/v1/keysmith/{rest}"} <= names
