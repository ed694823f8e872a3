"""Services in files come back as they were, and go in an order in which they can be registered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hx_gateway.cli.registry.documents import (
    Entry,
    UnreadableServices,
    batches,
    document_of,
    in_order,
    lost_dependencies,
    read_json,
    without_ends,
)
from hx_gateway.http.bodies import MAX_BODY_BYTES
from hx_gateway.registry.api.schemas import SERVICE_EXAMPLE


def shown(number: int, name: str, **fields: Any) -> dict[str, Any]:
    """Return a service as a gateway shows it."""
    return {**SERVICE_EXAMPLE, "id": f"id-{number}", "name": name, **fields}


def entries(*services: tuple[str, list[str]]) -> list[Entry]:
    return [Entry(row, {"name": name, "dependencies": ends}) for row, (name, ends) in enumerate(services, start=1)]


@pytest.mark.parametrize("text", ['[{"name": "a"}]', '{"items": [{"name": "a"}]}'])
def test_a_document_is_a_list_of_services_or_has_one(text: str) -> None:
    assert read_json(text) == [Entry(1, {"name": "a"})]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('"a"', "must be a list"),
        ('{"services": []}', "must be a list"),
        ('[{"name": "a"}, "b"]', "service 2 is not an object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_document_is_said(text: str, says: str) -> None:
    with pytest.raises(UnreadableServices, match=says):
        read_json(text)


def test_what_a_gateway_shows_is_read_without_what_only_it_may_set() -> None:
    text = json.dumps({"items": [shown(1, "web", dependencies=["id-2", "id-9"]), shown(2, "db", status="disabled")]})
    web, db = read_json(text)
    assert not {"id", "tenant_id", "status", "success_count", "row_version", "is_deleted"} & web.body.keys()
    assert web.body["dependencies"] == ["db", "id-9"]
    assert (web.body["endpoint"], db.body["status"]) == (SERVICE_EXAMPLE["endpoint"], "disabled")


def test_a_field_that_nobody_knows_is_left_to_the_gateway_to_refuse() -> None:
    assert read_json('[{"name": "a", "colour": "red"}]')[0].body == {"name": "a", "colour": "red"}


def test_what_is_written_is_read_again() -> None:
    services = [shown(1, "wéb", dependencies=["id-2", "id-9"]), shown(2, "db", status="maintenance", tags=[])]
    text = "".join(document_of(services))
    web, db = read_json(text)
    assert (web.body["name"], web.body["dependencies"], "status" in web.body) == ("wéb", ["db"], False)
    assert (db.body["status"], "tags" in db.body, db.body["service_metadata"]) == (
        "maintenance",
        False,
        SERVICE_EXAMPLE["service_metadata"],
    )
    assert lost_dependencies(services) == 1
    assert read_json("".join(document_of([]))) == []


def test_services_come_behind_those_they_depend_on() -> None:
    given = entries(("web", ["API", "elsewhere"]), ("api", ["db"]), ("db", []), ("alone", []))
    ordered = [entry.name for entry in in_order(given)]
    assert ordered.index("db") < ordered.index("api") < ordered.index("web")
    assert sorted(ordered) == ["alone", "api", "db", "web"]


def test_a_name_that_is_there_twice_is_left_to_the_gateway_to_refuse() -> None:
    assert [entry.row for entry in in_order(entries(("a", []), ("A", [])))] == [1, 2]


def test_a_circle_is_told_with_its_names() -> None:
    with pytest.raises(UnreadableServices, match=r"circle: (web → api → web|api → web → api)"):
        in_order(entries(("web", ["api"]), ("api", ["web"]), ("db", [])))


def test_batches_are_of_500_and_fit_a_body() -> None:
    few = [Entry(row, {"name": f"service {row}"}) for row in range(1, 1_202)]
    assert [len(batch) for batch in batches(few)] == [500, 500, 201]
    large = [Entry(row, {"name": f"service {row}", "description": "ü" * 10_000}) for row in range(1, 60)]
    parts = list(batches(large))
    assert [entry.row for batch in parts for entry in batch] == list(range(1, 60))
    assert max(len(json.dumps([entry.body for entry in batch])) for batch in parts) < MAX_BODY_BYTES
    assert list(batches([])) == []


def test_a_dry_run_leaves_out_dependencies_on_what_would_be_there() -> None:
    entry = Entry(1, {"name": "web", "dependencies": ["API", "db"]})
    assert without_ends(entry, frozenset({"api"})) == {"name": "web", "dependencies": ["db"]}
    assert without_ends(entry, frozenset()) is entry.body
    assert without_ends(Entry(1, {"dependencies": 5}), frozenset({"api"})) == {"dependencies": 5}
