"""The registry's OpenAPI document and its routes say the same to whoever asks, whatever is asked.

For every operation, requests are made up from the document: such as it allows, and such as it does not. No answer is
the server's fault, each has a status, a content type and a body that the document tells of, and who may not write
changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.test_registry_http import PREFIX, Desk
from tests.fixtures.servers import SERVERS, running_servers

Case: TypeAlias = schemathesis.Case[Any]
Operation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]
EXAMPLES = int(os.environ.get("HX_TEST_OPENAPI_EXAMPLES", "1"))
PRINCIPALS = ("no key", "reader", "writer", "platform admin")
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STREAM = f"{PREFIX}/events"
# It would look for addresses that are made up, and what probes find changes services: they are off here.
NOT_TRIED = {("POST", f"{PREFIX}/services/{{ref}}/{what}") for what in ("check", "refresh")}
SECONDS = 20.0
# An answer that is no stream is shorter than this, and of a stream no more is read.
MOST_BYTES = 65536
SERVICES = ("weather", "maps", "clock")
FLEETING = ("last_seen", "age_seconds")


class Registry:
    """A tenant with some services, its document, and who asks."""

    def __init__(self, people: People) -> None:
        self.desk = Desk(people)
        self.url = people.gateway.url
        self.keys = {"reader": self.desk.reader, "writer": self.desk.key, "platform admin": people.gateway.key}
        self.session = requests.Session()
        document = people.gateway.get("/openapi.json").json()
        document["paths"] = {path: of for path, of in document["paths"].items() if path.startswith(PREFIX)}
        config = schemathesis.Config()
        # Who asks is what the tests are about, and not made up.
        config.projects.default.generation.update(with_security_parameters=False)
        self.schema = schemathesis.openapi.from_dict(document, config=config)
        self.schema.config.update(base_url=self.url)

    def prepare(self) -> None:
        """Let there be some services."""
        for name in SERVICES:
            body = {"name": name, "tags": ["a"], "service_metadata": {"a": 1}}
            self.desk.ask("POST", "/services?on_conflict=restore", body)
        self.desk.ask("PUT", "/services/weather/dependencies/maps")

    def state(self) -> Any:
        """Return all that a change would be seen in."""
        fresh = {"cache-control": "no-cache"}
        items = self.desk.done("GET", "/services?limit=200&include_deleted=true", headers=fresh)["items"]
        shown = [{name: value for name, value in item.items() if name not in FLEETING[1:]} for item in items]
        return self.desk.done("GET", "/statistics", headers=fresh), shown

    def headers(self, who: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[who]}"} if who in self.keys else {}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running_servers(SERVERS[0]) as servers, living(servers, UNPROBED) as people:
        yield Registry(people)


def operations() -> list[tuple[str, str]]:
    """Return what the document is to have, so that each is a test of its own."""
    one, many = f"{PREFIX}/services/{{ref}}", f"{PREFIX}/services"
    by_path = {
        many: "GET POST",
        **{
            f"{many}/{which}": "GET"
            for which in ("healthy", "unhealthy", "required", "stale", "facets", "by-tag/{tag}")
        },
        f"{many}/bulk": "POST PATCH DELETE",
        f"{many}/bulk/restore": "POST",
        one: "GET PUT PATCH DELETE",
        f"{one}/health": "GET PUT",
        **{f"{one}/{what}": "POST" for what in ("restore", "enable", "disable", "heartbeat")},
        **{
            f"{one}/{what}": "GET"
            for what in ("health/history", "tools", "impact", "audit", "versions", "versions/{version}")
        },
        **{f"{of}/tools": "GET" for of in (PREFIX, one)},
        f"{one}/versions/{{version}}/revert": "POST",
        f"{many}/import": "POST",
        f"{many}/export": "GET",
        **{f"{PREFIX}/graph{part}": "GET" for part in ("", "/order", "/cycles")},
        f"{PREFIX}/graph/validate": "POST",
        f"{one}/maintenance": "POST DELETE",
        f"{one}/dependencies": "GET POST",
        f"{one}/dependents": "GET",
        f"{one}/dependencies/{{dependency}}": "PUT DELETE",
        f"{PREFIX}/heartbeats": "POST",
        f"{many}/check": "POST",
        f"{PREFIX}/checks/{{job}}": "GET",
        f"{PREFIX}/sync": "GET POST",
        f"{PREFIX}/statistics/timeseries": "GET",
        **{
            f"{PREFIX}/{what}": "GET" for what in ("statistics", "tags", "health/summary", "audit", "changes", "events")
        },
    }
    return [(method, path) for path, methods in by_path.items() for method in methods.split()]


def test_every_operation_of_the_document_is_tried(registry: Registry) -> None:
    found = {(operation.method.upper(), operation.path) for operation in everything(registry)}
    assert found == {*operations(), *NOT_TRIED}


def everything(registry: Registry) -> Iterator[Operation]:
    for result in registry.schema.get_all_operations():
        assert isinstance(result, Ok), result
        yield result.ok()


@pytest.mark.parametrize("who", PRINCIPALS)
@pytest.mark.parametrize(("method", "path"), operations(), ids=lambda part: part.removeprefix(PREFIX))
def test_answers_are_such_as_the_document_says(registry: Registry, method: str, path: str, who: str) -> None:
    operation = registry.schema[path][method]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in MODES))
    registry.prepare()
    before = registry.state()

    @settings(
        max_examples=EXAMPLES * len(MODES),
        derandomize=True,
        database=None,
        # Each is a request on a machine that may be busy.
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, ref=st.sampled_from([*SERVICES, None]))
    def ask(case: Case, ref: str | None) -> None:
        aim(case, ref)
        if path == STREAM:
            check_stream(registry, case, who)
        else:
            response = case.call(session=registry.session, headers=registry.headers(who), timeout=SECONDS)
            case.validate_response(response, checks=CHECKS)

    ask()
    if who in ("no key", "reader"):
        assert registry.state() == before


def aim(case: Case, ref: str | None) -> None:
    """Let some requests be about what there is, and none wait."""
    if ref is not None:
        case.path_parameters.update(
            {name: value for name, value in there_is(ref).items() if name in case.path_parameters}
        )
        case.query.pop("tenant_id", None)
    if "wait" in case.query:
        case.query["wait"] = "0s"


def there_is(ref: str) -> dict[str, str]:
    return {"ref": ref, "dependency": "maps", "tag": "a", "version": "1"}


def check_stream(registry: Registry, case: Case, who: str) -> None:
    """The stream goes on for minutes: what it begins with is enough to see what it is."""
    sent: Mapping[str, Any] = case.as_transport_kwargs(registry.url, headers=registry.headers(who))
    with registry.session.request(**sent, stream=True, timeout=SECONDS) as response:
        said = case.operation.definition.raw["responses"][str(response.status_code)]
        assert response.status_code < 500
        assert response.headers["content-type"].partition(";")[0] in said["content"]
        assert response.raw.read1(MOST_BYTES)
