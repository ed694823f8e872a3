"""What the document says of answers is what is answered: the same fields, and the same types of those that are null."""

from __future__ import annotations

import types
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from hx_gateway.registry.api import health, schemas, sync, tools
from hx_gateway.registry.probing import HealthPeriod, HealthState
from hx_gateway.registry.statistics import (
    DependedOn,
    Facets,
    FailingService,
    RequiredServices,
    ResponseTimes,
    ServiceStatistics,
)
from hx_gateway.registry.sync.followed import SyncState
from hx_gateway.registry.tool_definitions import Tool as ToolDefinition
from hx_gateway.registry.tool_repository import ToolChanges


def may_be_null(hint: Any) -> bool:
    return types.NoneType in get_args(hint)


@pytest.mark.parametrize(
    ("told", "answered", "more"),
    [
        (schemas.ServiceHealth, HealthState, set()),
        (health.Period, HealthPeriod, set()),
        (schemas.Numbers, ServiceStatistics, {"last_change_seq"}),
        (schemas.RequiredServices, RequiredServices, set()),
        (schemas.ResponseTimes, ResponseTimes, set()),
        (schemas.FailingService, FailingService, set()),
        (schemas.DependedOn, DependedOn, set()),
        (schemas.FacetCounts, Facets, {"tags", "tags_counted_in"}),
        (sync.FollowedRegistry, SyncState, set()),
        (tools.Tool, ToolDefinition, {"first_seen", "updated_at"}),
        (tools.Refreshed, ToolChanges, {"service_id", "service"}),
    ],
)
def test_a_schema_has_the_fields_that_are_answered(told: type[BaseModel], answered: type[Any], more: set[str]) -> None:
    names = {field.name for field in fields(answered)}
    assert set(told.model_fields) == names | more
    hints, shown = get_type_hints(answered), get_type_hints(told)
    assert {name for name in names if may_be_null(hints[name])} == {name for name in names if may_be_null(shown[name])}
