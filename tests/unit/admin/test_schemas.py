"""The bodies of the admin API: what is refused names its field, what is taken arrives as it was meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from hx_gateway.admin.fields import MAX_METADATA_BYTES
from hx_gateway.admin.schemas import (
    AuditList,
    Fields,
    KeyCreate,
    KeyList,
    KeyPatch,
    Membership,
    Rotation,
    TeamCreate,
    TeamPatch,
    TenantCreate,
    TenantPatch,
    UserCreate,
    UserPatch,
)

NUL, BELL, SURROGATE, TURNED = "a\x00b", "a\x07b", "a\ud800b", "abc\u202egpj"


def refusal(model: type[Any], body: dict[str, Any]) -> tuple[str, str]:
    """Return the field that a body is refused for, and why."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    first = caught.value.errors()[0]
    return ".".join(str(part) for part in first["loc"]), str(first["msg"])


def values(model: type[Fields], **body: Any) -> dict[str, Any]:
    return model.model_validate(body).values()


def nested(depth: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for _ in range(depth - 1):
        tree = {"a": tree}
    return tree


def budget(**more: Any) -> dict[str, Any]:
    return {"limit_usd": 1, "period": "day", **more}


EVERYWHERE: list[tuple[str, Any, str]] = [
    ("name", "", "name"),
    ("name", "   ", "name"),
    ("name", "x" * 201, "name"),
    ("name", 7, "name"),
    ("name", None, "name"),
    ("name", NUL, "name"),
    ("name", BELL, "name"),
    ("name", SURROGATE, "name"),
    ("name", TURNED, "name"),
    ("name", "two\nlines", "name"),
    ("tags", "production", "tags"),
    ("tags", None, "tags"),
    ("tags", ["a"] * 2, "tags"),
    ("tags", [str(number) for number in range(33)], "tags"),
    ("tags", ["fine", "x" * 65], "tags.1"),
    ("tags", [""], "tags.0"),
    ("tags", [NUL], "tags.0"),
    ("tags", [7], "tags.0"),
    ("metadata", [], "metadata"),
    ("metadata", None, "metadata"),
    ("metadata", {"a": "x" * MAX_METADATA_BYTES}, "metadata"),
    ("metadata", nested(9), "metadata"),
    ("metadata", {"a": {"b": [NUL]}}, "metadata"),
    ("metadata", {NUL: 1}, "metadata"),
    ("metadata", {"a": SURROGATE}, "metadata"),
    ("models", "gpt-4o", "models"),
    ("models", [""], "models.0"),
    ("models", ["x" * 257], "models.0"),
    ("models", ["a\tb"], "models.0"),
    ("models", [f"m{number}" for number in range(201)], "models"),
    ("models", ["a", "a"], "models"),
    ("limits", None, "limits"),
    ("limits", 60, "limits"),
    ("limits", {"rpd": 1}, "limits.rpd"),
    ("limits", {"rpm": -1}, "limits.rpm"),
    ("limits", {"rpm": 1.5}, "limits.rpm"),
    ("limits", {"rpm": 60.0}, "limits.rpm"),
    ("limits", {"rpm": "60"}, "limits.rpm"),
    ("limits", {"rpm": True}, "limits.rpm"),
    ("limits", {"rpm": 1_000_000_001}, "limits.rpm"),
    ("limits", {"tpm": 1_000_000_001}, "limits.tpm"),
    ("limits", {"max_parallel": 1_000_001}, "limits.max_parallel"),
    ("limits", {"rpm": 1, "burst": 0}, "limits.burst"),
    ("limits", {"burst": 5}, "limits.burst"),
    ("budgets", {}, "budgets"),
    ("budgets", None, "budgets"),
    ("budgets", [budget(period="year")], "budgets.0.period"),
    ("budgets", [{"limit_usd": 1}], "budgets.0.period"),
    ("budgets", [{"period": "day"}], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=-1)], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=9_000_001)], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd="0.0000000001")], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd="ten")], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=True)], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=None)], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=float("nan"))], "budgets.0.limit_usd"),
    ("budgets", [budget(limit_usd=[1])], "budgets.0.limit_usd"),
    ("budgets", [budget(soft_usd=2)], "budgets.0.soft_usd"),
    ("budgets", [budget(id="bg-madeup")], "budgets.0.id"),
    ("budgets", [budget(), budget(limit_usd=2)], "budgets"),
    ("surprise", 1, "surprise"),
    ("id", "mine", "id"),
    ("created_at", "2026-01-01T00:00:00Z", "created_at"),
]


@pytest.mark.parametrize("model", [TeamPatch, UserPatch, KeyPatch], ids=lambda model: model.__name__)
@pytest.mark.parametrize(
    ("field", "value", "named"), EVERYWHERE, ids=[f"{f}-{n}" for n, (f, _, _) in enumerate(EVERYWHERE)]
)
def test_what_every_object_refuses_names_its_field(model: type[Any], field: str, value: Any, named: str) -> None:
    assert refusal(model, {field: value})[0] == named


OWN: list[tuple[type[Any], dict[str, Any], str]] = [
    (TenantCreate, {}, "name"),
    (TenantCreate, {"name": "A", "id": "Upper"}, "id"),
    (TenantCreate, {"name": "A", "id": "-a"}, "id"),
    (TenantCreate, {"name": "A", "id": "a" * 64}, "id"),
    (TenantCreate, {"name": "A", "id": "a\n"}, "id"),
    (TenantCreate, {"name": "A", "id": None}, "id"),
    (TenantPatch, {"id": "other"}, "id"),
    (TenantPatch, {"time_zone": "Europe/Nowhere"}, "time_zone"),
    (TenantPatch, {"time_zone": "../../etc/passwd"}, "time_zone"),
    (TenantPatch, {"time_zone": None}, "time_zone"),
    (TenantPatch, {"blocked": "yes"}, "blocked"),
    (TenantPatch, {"blocked": 1}, "blocked"),
    (TenantPatch, {"model_limits": {"gpt-4o": {"rpm": -1}}}, "model_limits.gpt-4o.rpm"),
    (TenantPatch, {"model_limits": {"gpt-4o": {"what": 1}}}, "model_limits.gpt-4o.what"),
    (TenantPatch, {"model_limits": {str(n): {} for n in range(201)}}, "model_limits"),
    (TenantPatch, {"budgets": [budget(model="m"), budget(model="m")]}, "budgets"),
    (TenantPatch, {"budgets": [budget(model="")]}, "budgets.0.model"),
    (TenantPatch, {"role": "member"}, "role"),
    (TeamCreate, {"name": "A", "tenant_id": "No Tenant"}, "tenant_id"),
    (TeamPatch, {"tenant_id": "other"}, "tenant_id"),
    (TeamPatch, {"budgets": [budget(model="m")]}, "budgets.0.model"),
    (TeamPatch, {"model_limits": {}}, "model_limits"),
    (UserCreate, {"name": "A", "role": "root"}, "role"),
    (UserCreate, {"name": "A", "role": None}, "role"),
    (UserCreate, {"name": "A", "email": "nobody"}, "email"),
    (UserCreate, {"name": "A", "email": "a b@example.org"}, "email"),
    (UserCreate, {"name": "A", "email": "a@example.org\n"}, "email"),
    (UserCreate, {"name": "A", "email": "a@" + "b" * 300}, "email"),
    (KeyCreate, {"team_id": "tm-a"}, "name"),
    (KeyCreate, {"name": "A", "team_id": "tm a"}, "team_id"),
    (KeyCreate, {"name": "A", "user_id": "x" * 65}, "user_id"),
    (KeyCreate, {"name": "A", "admin_role": "member"}, "admin_role"),
    (KeyCreate, {"name": "A", "key": "mine"}, "key"),
    (KeyCreate, {"name": "A", "imported_sha256": "00" * 31}, "imported_sha256"),
    (KeyCreate, {"name": "A", "imported_sha256": "AB" * 32}, "imported_sha256"),
    (KeyCreate, {"name": "A", "imported_sha256": "ab" * 32 + "\n"}, "imported_sha256"),
    (KeyCreate, {"name": "A", "imported_sha256": None}, "imported_sha256"),
    (KeyCreate, {"name": "A", "last_four": "abcd"}, "last_four"),
    (KeyCreate, {"name": "A", "imported_sha256": "ab" * 32, "last_four": "abcde"}, "last_four"),
    (KeyCreate, {"name": "A", "imported_sha256": "ab" * 32, "last_four": "a\tb"}, "last_four"),
    (KeyPatch, {"imported_sha256": "ab" * 32}, "imported_sha256"),
    (KeyPatch, {"last_four": "abcd"}, "last_four"),
    (KeyPatch, {"team_id": "tm-a"}, "team_id"),
    (KeyPatch, {"admin_role": "tenant_admin"}, "admin_role"),
    (KeyPatch, {"digest": "00"}, "digest"),
    (KeyPatch, {"blocked": True}, "blocked"),
    (KeyPatch, {"aliases": {f"a{n}": "m" for n in range(101)}}, "aliases"),
    (KeyPatch, {"aliases": {"a": ""}}, "aliases.a"),
    (KeyPatch, {"aliases": {"a": 1}}, "aliases.a"),
    (KeyPatch, {"aliases": None}, "aliases"),
    (KeyPatch, {"allowed_routes": ["v1/chat/*"]}, "allowed_routes.0"),
    (KeyPatch, {"allowed_routes": ["/v1\n"]}, "allowed_routes.0"),
    (KeyPatch, {"scopes": ["everything"]}, "scopes.0"),
    (KeyPatch, {"scopes": ["registry:register:"]}, "scopes.0"),
    (KeyPatch, {"scopes": ["registry:register"]}, "scopes.0"),
    (KeyPatch, {"scopes": ["registry:register:a\0b"]}, "scopes.0"),
    (KeyPatch, {"scopes": ["registry:register: a"]}, "scopes.0"),
    (KeyPatch, {"scopes": [f"registry:register:{'x' * 201}"]}, "scopes.0"),
    (KeyPatch, {"scopes": ["registry:write:acme-"]}, "scopes.0"),
    (KeyPatch, {"scopes": [7]}, "scopes.0"),
    (KeyPatch, {"scopes": ["models", "models"]}, "scopes"),
    (KeyPatch, {"scopes": ["admin"]}, "scopes.0"),
    (KeyPatch, {"scopes": None}, "scopes"),
    (KeyPatch, {"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    (KeyPatch, {"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    (KeyPatch, {"expires_at": "2030-01-01"}, "expires_at"),
    (KeyPatch, {"expires_at": "tomorrow"}, "expires_at"),
    (KeyPatch, {"expires_at": 1_900_000_000}, "expires_at"),
    (KeyPatch, {"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
    (KeyPatch, {"expires_in": 0}, "expires_in"),
    (KeyPatch, {"expires_in": "60"}, "expires_in"),
    (KeyPatch, {"expires_in": 10**12}, "expires_in"),
    (KeyPatch, {"expires_at": "2030-01-01T00:00:00Z", "expires_in": 60}, "expires_in"),
    (KeyPatch, {"expires_in": 60, "expires_at": "2030-01-01T00:00:00Z"}, "expires_in"),
    (Rotation, {"grace_seconds": -1}, "grace_seconds"),
    (Rotation, {"grace_seconds": 604_801}, "grace_seconds"),
    (Rotation, {"grace_seconds": 1.0}, "grace_seconds"),
    (Rotation, {"grace": 1}, "grace"),
    (Membership, {}, "role"),
    (Membership, {"role": "tenant_admin"}, "role"),
    (Membership, {"role": "member", "user_id": "us-a"}, "user_id"),
    (KeyList, {"limit": "0"}, "limit"),
    (KeyList, {"limit": "201"}, "limit"),
    (KeyList, {"limit": "many"}, "limit"),
    (KeyList, {"sort": "digest"}, "sort"),
    (KeyList, {"cursor": "a b"}, "cursor"),
    (KeyList, {"blocked": "perhaps"}, "blocked"),
    (KeyList, {"digest": "00"}, "digest"),
    (KeyList, {"team_id": "x'; drop"}, "team_id"),
    (AuditList, {"action": "looked"}, "action"),
    (AuditList, {"sort": "at"}, "sort"),
]


@pytest.mark.parametrize(
    ("model", "body", "named"), OWN, ids=[f"{m.__name__}-{n}-{i}" for i, (m, _, n) in enumerate(OWN)]
)
def test_what_one_kind_refuses_names_its_field(model: type[Any], body: dict[str, Any], named: str) -> None:
    assert refusal(model, body)[0] == named


def test_only_what_was_sent_is_handed_on() -> None:
    assert values(KeyPatch) == {}
    assert values(KeyPatch, name="A") == {"name": "A"}
    assert values(TenantCreate, name="A") == {"name": "A"}


def test_null_is_a_value_where_it_means_something() -> None:
    sent = {"models": None, "allowed_routes": None, "expires_at": None}
    assert values(KeyPatch, **sent) == sent
    assert values(UserPatch, email=None) == {"email": None}


def test_an_empty_list_of_models_is_kept_apart_from_none() -> None:
    assert values(KeyPatch, models=[]) == {"models": []}


@pytest.mark.parametrize(
    ("sent", "nano"),
    [
        (0.1, 100_000_000),
        ("0.1", 100_000_000),
        (1e-9, 1),
        (0, 0),
        (9_000_000, 9_000_000_000_000_000),
        (12.345678901, 12_345_678_901),
    ],
)
def test_money_is_exact(sent: object, nano: int) -> None:
    assert values(TeamPatch, budgets=[budget(limit_usd=sent)])["budgets"][0]["limit_nano"] == nano


def test_a_budget_arrives_with_its_soft_threshold_and_model() -> None:
    sent = [budget(), budget(model="gpt-4o", soft_usd=1), budget(period="total")]
    assert values(TenantPatch, budgets=sent)["budgets"] == [
        {"limit_nano": 10**9, "soft_nano": None, "period": "day", "model": None},
        {"limit_nano": 10**9, "soft_nano": 10**9, "period": "day", "model": "gpt-4o"},
        {"limit_nano": 10**9, "soft_nano": None, "period": "total", "model": None},
    ]


def test_limits_without_a_figure_are_left_out() -> None:
    assert values(KeyPatch, limits={"rpm": 60, "tpm": None, "burst": 10})["limits"] == {"rpm": 60, "burst": 10}
    assert values(TenantPatch, model_limits={"m": {"tpm": 5}})["model_limits"] == {"m": {"tpm": 5}}


def test_seconds_to_live_stay_what_they_are_so_that_the_same_request_is_the_same() -> None:
    assert values(KeyPatch, expires_in=3600) == {"expires_in": 3600}


def test_a_moment_is_understood_in_any_zone() -> None:
    there = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    for text in (there.isoformat(), there.isoformat().replace("+00:00", "Z")):
        assert values(KeyPatch, expires_at=text) == {"expires_at": there}
    shifted = there.astimezone(tz=None).isoformat()
    assert values(KeyPatch, expires_at=shifted)["expires_at"] == there


def test_metadata_may_hold_lines_and_what_it_may_nest() -> None:
    fine = {"note": "two\nlines\tand a tab", **nested(8)}
    assert values(KeyPatch, metadata=fine) == {"metadata": fine}


def test_names_of_all_scripts_are_taken() -> None:
    for name in ("Zoë", "会计", "\u0645\u06cc\u200c\u062e", "👩\u200d💻 team"):
        assert values(TeamPatch, name=name) == {"name": name}


def test_scopes_are_handed_on_as_their_names() -> None:
    assert values(KeyPatch, scopes=["models", "events:read"]) == {"scopes": ["models", "events:read"]}
    assert {type(scope) for scope in values(KeyPatch, scopes=["models"])["scopes"]} == {str}


def test_filters_are_texts_and_paging_is_none_of_them() -> None:
    query = KeyList.model_validate(
        {"limit": "7", "sort": "name", "blocked": "true", "team_id": "tm-a", "include_deleted": "true", "cursor": "abc"}
    ).query()
    assert query.filters == {"blocked": "true", "team_id": "tm-a"}
    assert (query.limit, query.sort, query.include_deleted, query.cursor) == (7, "name", True, "abc")


def test_the_audit_log_is_filtered_and_never_sorted_otherwise() -> None:
    query = AuditList.model_validate({"action": "rotated", "object_id": "madeUpKeyId1"}).query()
    assert (query.filters, query.sort) == ({"action": "rotated", "object_id": "madeUpKeyId1"}, "-created_at")


@pytest.mark.parametrize("more", [{}, {"last_four": ""}, {"last_four": "a.Z9"}])
def test_a_key_is_taken_over_by_its_hash(more: dict[str, Any]) -> None:
    body = {"name": "A", "imported_sha256": "0f" * 32, **more}
    assert values(KeyCreate, **body) == body
