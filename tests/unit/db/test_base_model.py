"""What every registered object does without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData, String
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.attributes import set_committed_value

from hx_gateway.db.models.base_model import BaseModel, FieldChange, table_name
from hx_gateway.db.models.validation import InvalidModel

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


class TestModel(BaseModel):
    """A model with a column of each kind, outside of the program's own tables."""

    __test__ = False
    metadata: ClassVar[MetaData] = MetaData()

    title: Mapped[str] = mapped_column(String(5))
    size: Mapped[int | None]
    weight: Mapped[float | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seen: Mapped[datetime | None]


def loaded(**values: Any) -> TestModel:
    """Return a model as if it came from the database."""
    model = TestModel(title="a", created_at=NOON, updated_at=NOON)
    for name, value in {**model.values(), **values}.items():
        set_committed_value(model, name, value)
    return model


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("TestModel", "test_models"),
        ("RegistryItem", "registry_items"),
        ("Policy", "policies"),
        ("ApiKey", "api_keys"),
        ("HTTPBox", "http_boxes"),
        ("Address", "addresses"),
        ("Oauth2Client", "oauth2_clients"),
    ],
)
def test_a_table_is_named_after_its_class(name: str, table: str) -> None:
    assert table_name(name) == table


def test_a_model_has_its_tables_name() -> None:
    assert TestModel.__tablename__ == "test_models"


def test_defaults_hold_from_the_beginning() -> None:
    one, other = TestModel(title="a"), TestModel(title="b")
    assert isinstance(one.id, UUID)
    assert one.id != other.id
    assert one.created_at == one.updated_at
    assert one.created_at.tzinfo is UTC
    assert (one.is_active, one.deleted_at, one.created_by, one.updated_by) == (True, None, None, None)
    assert one.details is not other.details


def test_a_field_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(InvalidModel, match="colour: is not a field") as caught:
        TestModel(title="a", colour="red")
    assert (caught.value.status, caught.value.param) == (422, "colour")


def test_a_deletion_is_noted_and_taken_back() -> None:
    model = TestModel(title="a")
    model.soft_delete("ann", now=NOON)
    assert (model.is_deleted, model.is_active, model.deleted_at) == (True, False, NOON)
    assert (model.updated_at, model.updated_by) == (NOON, "ann")
    assert model.deleted_for(NOON + timedelta(minutes=1)) == timedelta(minutes=1)
    model.restore("ben", now=NOON + timedelta(hours=1))
    assert (model.is_deleted, model.is_active, model.deleted_at, model.deleted_for()) == (False, True, None, None)
    assert (model.updated_at, model.updated_by) == (NOON + timedelta(hours=1), "ben")


def test_a_second_deletion_or_restoration_changes_nothing() -> None:
    model = TestModel(title="a", updated_at=NOON)
    model.restore("ben")
    assert (model.updated_at, model.updated_by) == (NOON, None)
    model.soft_delete("ann", now=NOON)
    model.soft_delete("ben", now=NOON + timedelta(hours=1))
    assert (model.deleted_at, model.updated_by) == (NOON, "ann")


def test_age_is_since_the_creation() -> None:
    model = TestModel(title="a", created_at=NOON)
    assert model.age(NOON + timedelta(seconds=90)) == timedelta(seconds=90)
    assert TestModel(title="a").age_seconds == pytest.approx(0, abs=5)


def test_fields_are_set_and_those_that_differ_are_told() -> None:
    model = TestModel(title="a", size=1)
    assert model.update_fields(title="b", size=1) == {"title": FieldChange("a", "b")}
    assert (model.title, model.size) == ("b", 1)


@pytest.mark.parametrize("name", ["colour", "id", "created_at", "updated_by", "deleted_at", "is_active", "__class__"])
def test_a_name_that_is_no_field_or_is_protected_sets_nothing(name: str) -> None:
    model = TestModel(title="a")
    with pytest.raises(InvalidModel, match=f"{name}: is not"):
        model.update_fields(title="b", **{name: "x"})
    assert model.title == "a"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"title": None}, "title: is required."),
        ({"title": "abcdef"}, "title: must have at most 5 characters, not 6."),
        ({"title": 5}, "title: must be of the type str, not int."),
        ({"title": "a\0"}, "title: must not hold a NUL character."),
        ({"title": "\ud800"}, "title: must not hold half of a surrogate pair."),
        ({"size": True}, "size: must be of the type int, not bool."),
        ({"size": 1.5}, "size: must be of the type int, not float."),
        ({"weight": float("nan")}, "weight: must hold finite numbers only."),
        ({"details": []}, "details: must be of the type dict, not list."),
        ({"details": {"a": [{"b\0": 1}]}}, "details: must not hold a NUL character."),
        ({"details": {"a": float("inf")}}, "details: must hold finite numbers only."),
        ({"seen": datetime(2026, 1, 1)}, "seen: must have a time zone."),  # noqa: DTZ001 - that is the point
        ({"created_by": "x" * 256}, "created_by: must have at most 255 characters, not 256."),
    ],
)
def test_a_broken_rule_names_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        TestModel(**{"title": "a", **values}).validate_model()
    assert caught.value.message == message


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(InvalidModel) as caught:
        TestModel(size="x", weight="y").validate_model()
    assert {problem.field for problem in caught.value.problems} == {"title", "size", "weight"}


def test_json_that_is_too_deep_is_refused_and_not_walked_to_its_end() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidModel, match="details: must have at most 64 levels"):
        TestModel(title="a", details={"a": deep}).validate_model()


def test_what_is_valid_is_accepted() -> None:
    TestModel(title="äöü🙂x", size=0, weight=1, details={"a": [1, None, True, "b"]}, seen=NOON).validate_model()


def test_changes_are_told_against_what_is_stored() -> None:
    model = loaded(size=1)
    assert model.get_changes() == {}
    model.size = 2
    model.title = "a"
    assert model.get_changes() == {"size": FieldChange(1, 2)}
    model.size = 1
    assert model.get_changes() == {}


def test_a_field_that_is_emptied_is_a_change() -> None:
    model = loaded(size=1)
    model.size = None
    assert model.get_changes() == {"size": FieldChange(1, None)}


def test_everything_that_is_set_of_a_new_one_is_a_change() -> None:
    changes = TestModel(title="a").get_changes()
    assert changes["title"] == FieldChange(None, "a")
    assert "size" not in changes


def test_a_dict_is_json_and_holds_what_is_computed() -> None:
    model_id = uuid4()
    model = TestModel(id=model_id, title="a", created_at=NOON, updated_at=NOON)
    shown = model.to_dict(exclude={"size", "age_seconds"})
    assert shown == {
        "id": str(model_id),
        "title": "a",
        "weight": None,
        "details": {},
        "seen": None,
        "created_at": "2026-11-25T12:00:00+00:00",
        "updated_at": "2026-11-25T12:00:00+00:00",
        "created_by": None,
        "updated_by": None,
        "deleted_at": None,
        "is_active": True,
        "is_deleted": False,
    }
    assert model.to_dict()["age_seconds"] > 0
