"""What a service does without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from hx_gateway.db.models.registry_items import (
    BuildType,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.db.models.validation import InvalidModel

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_defaults_are_those_that_were_agreed() -> None:
    item = RegistryItem(name="mail")
    assert item.to_dict(exclude={"id", "created_at", "updated_at", "age_seconds"}) == {
        "name": "mail",
        "display_name": None,
        "description": None,
        "build_type": "fastmcp",
        "protocol": "stdio",
        "priority": "medium",
        "status": "unknown",
        "location": None,
        "endpoint": None,
        "port": None,
        "version": None,
        "tags": [],
        "service_metadata": {},
        "config": {},
        "last_health_check": None,
        "health_check_url": None,
        "response_time_ms": None,
        "is_required": False,
        "is_enabled": True,
        "auto_start": False,
        "dependencies": [],
        "dependents": [],
        "pending_dependencies": [],
        "source": None,
        "registry_url": None,
        "last_seen": None,
        "success_count": 0,
        "failure_count": 0,
        "tenant_id": "default",
        "row_version": 1,
        "created_by": None,
        "updated_by": None,
        "deleted_at": None,
        "is_active": True,
        "is_deleted": False,
        "health_score": 0.0,
    }


@pytest.mark.parametrize("kind", [BuildType, ServiceProtocol, ServicePriority, ServiceStatus])
def test_values_are_names_in_lower_case(kind: type[BuildType]) -> None:
    assert [member.value for member in kind] == [member.name.lower() for member in kind]


def test_values_of_enumerations_are_taken_for_their_members() -> None:
    item = RegistryItem(name="mail", build_type="docker", status="maintenance")
    assert (item.build_type, item.status) == (BuildType.DOCKER, ServiceStatus.MAINTENANCE)
    item.update_fields(priority="low", status="disabled")
    assert (item.priority, item.status) == (ServicePriority.LOW, ServiceStatus.DISABLED)
    item.validate_model()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " mail"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"description": "x" * (64 * 1024 + 1)}, "description"),
        ({"build_type": "wood"}, "build_type"),
        ({"protocol": BuildType.DOCKER}, "protocol"),
        ({"status": "dead"}, "status"),
        ({"location": "x" * 513}, "location"),
        ({"endpoint": "http://ann:secret@mail.example.org/mcp"}, "endpoint"),
        ({"health_check_url": "http://token@mail.example.org"}, "health_check_url"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "80"}, "port"),
        ({"version": "x" * 51}, "version"),
        ({"tags": "mail"}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": [1]}, "tags"),
        ({"tags": ["a", "a"]}, "tags"),
        ({"tags": ["x" * 101]}, "tags"),
        ({"tags": [f"t{number}" for number in range(65)]}, "tags"),
        ({"config": {"a": "x" * 64 * 1024}}, "config"),
        ({"config": {"a": object()}}, "config"),
        ({"service_metadata": {"a": "\0"}}, "service_metadata"),
        ({"success_count": -1}, "success_count"),
        ({"response_time_ms": -0.1}, "response_time_ms"),
        ({"response_time_ms": float("nan")}, "response_time_ms"),
        ({"dependencies": ["mail"]}, "dependencies"),
        ({"dependencies": [[]]}, "dependencies"),
        ({"dependencies": None}, "dependencies"),
        ({"dependencies": 5}, "dependencies"),
        ({"dependencies": [str(uuid4())] * 2 + [str(uuid4()) for _ in range(200)]}, "dependencies"),
    ],
)
def test_a_broken_rule_names_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        RegistryItem(**{"name": "mail", **values}).validate_model()
    assert [problem.field for problem in caught.value.problems] == [field]


def test_addresses_may_hold_an_at_sign_elsewhere() -> None:
    RegistryItem(name="mail", endpoint="http://mail.example.org/@ann", location="ann@host:/srv").validate_model()


def test_what_is_set_is_held_to_the_same_rules() -> None:
    item = RegistryItem(name="mail")
    item.update_fields(dependencies=5, tags=None, status=None)
    with pytest.raises(InvalidModel) as caught:
        item.validate_model()
    assert {problem.field for problem in caught.value.problems} == {"dependencies", "tags", "status"}


def test_a_service_does_not_depend_on_itself() -> None:
    item = RegistryItem(name="mail")
    item.update_fields(dependencies=[str(item.id)])
    with pytest.raises(InvalidModel, match="dependencies: must not hold the service's own id"):
        item.validate_model()


@pytest.mark.parametrize("name", ["success_count", "last_seen", "dependents", "tenant_id", "row_version"])
def test_what_is_found_out_is_not_set(name: str) -> None:
    with pytest.raises(InvalidModel, match=f"{name}: is not set by its name"):
        RegistryItem(name="mail").update_fields(**{name: 5})


# Health


def test_what_is_found_out_is_counted() -> None:
    item = RegistryItem(name="mail")
    assert item.update_health_status(ServiceStatus.HEALTHY, response_time_ms=1.5, now=NOON)
    assert (item.status, item.success_count, item.failure_count) == (ServiceStatus.HEALTHY, 1, 0)
    assert (item.last_health_check, item.last_seen, item.response_time_ms) == (NOON, NOON, 1.5)
    later = NOON + timedelta(minutes=1)
    assert item.update_health_status(ServiceStatus.UNHEALTHY, now=later)
    assert not item.update_health_status(ServiceStatus.UNHEALTHY, now=later)
    assert (item.status, item.success_count, item.failure_count) == (ServiceStatus.UNHEALTHY, 1, 2)
    assert (item.last_health_check, item.last_seen, item.response_time_ms) == (later, NOON, 1.5)


@pytest.mark.parametrize("decided", [ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED])
def test_what_is_found_out_leaves_a_decision_and_is_counted(decided: ServiceStatus) -> None:
    item = RegistryItem(name="mail")
    assert item.update_health_status(decided, now=NOON)
    assert item.last_health_check is None
    assert not item.update_health_status(ServiceStatus.HEALTHY, now=NOON)
    assert (item.status, item.success_count) == (decided, 1)
    assert item.update_health_status(ServiceStatus.UNKNOWN)
    assert (item.status, item.success_count, item.failure_count) == (ServiceStatus.UNKNOWN, 1, 0)


def test_a_status_may_be_given_by_its_value() -> None:
    item = RegistryItem(name="mail")
    assert item.update_health_status("healthy")  # type: ignore[arg-type]
    assert (item.status, item.success_count) == (ServiceStatus.HEALTHY, 1)
    with pytest.raises(ValueError, match="dead"):
        item.update_health_status("dead")  # type: ignore[arg-type]


def test_the_score_is_successes_over_attempts() -> None:
    assert RegistryItem(name="mail").get_health_score() == 0.0
    item = RegistryItem(name="mail", success_count=3, failure_count=1)
    assert item.get_health_score() == 0.75
    assert item.to_dict()["health_score"] == 0.75
    assert "health_score" not in item.to_dict(exclude=["health_score"])


@pytest.mark.parametrize("status", ServiceStatus)
def test_only_a_healthy_one_is_healthy(status: ServiceStatus) -> None:
    assert RegistryItem(name="mail", status=status).is_healthy() is (status is ServiceStatus.HEALTHY)


@pytest.mark.parametrize("priority", ServicePriority)
def test_only_a_critical_one_is_critical(priority: ServicePriority) -> None:
    assert RegistryItem(name="mail", priority=priority).is_critical() is (priority is ServicePriority.CRITICAL)


# Dependencies


def test_both_ends_tell_of_a_dependency() -> None:
    mail, store, index = (RegistryItem(name=name) for name in ("mail", "store", "index"))
    assert mail.add_dependency(store)
    assert mail.add_dependency(index)
    assert not mail.add_dependency(store)
    assert mail.dependencies == sorted([store.id, index.id])
    assert (store.dependents, index.dependents, mail.dependents) == ([mail.id], [mail.id], [])
    assert mail.remove_dependency(store)
    assert not mail.remove_dependency(store)
    assert (mail.dependencies, store.dependents) == ([index.id], [])


def test_neither_itself_nor_what_is_another_tenants_is_depended_on() -> None:
    item = RegistryItem(name="mail")
    for other in (item, RegistryItem(name="store", tenant_id="rival")):
        with pytest.raises(InvalidModel, match="dependencies: must be other services of the same tenant"):
            item.add_dependency(other)
    assert item.dependencies == []


def test_changes_tell_of_columns() -> None:
    changes = RegistryItem(name="mail", tags=["a"]).get_changes()
    assert changes["tags"].new == ["a"]
    assert not {"name_key", "words"} & changes.keys()


def test_ids_of_dependencies_are_taken_from_texts() -> None:
    end = uuid4()
    assert RegistryItem(name="mail", dependencies=[str(end)]).dependencies == [end]
