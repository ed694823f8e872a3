"""Several change the same services at once, over HTTP: what may succeed once does so once, and nobody gets stuck."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.test_registry_http import Desk
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import SERVERS, running_servers

RACES = int(os.environ.get("HX_TEST_REGISTRY_RACES", "5"))
RUNNERS = 8
Ask = Callable[[], Answer]


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    with running_servers(SERVERS[0]) as servers, living(servers, UNPROBED) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


def race(*asks: Ask) -> list[Answer]:
    """Return the answers to requests that are made at the same moment."""
    ready = threading.Barrier(len(asks))

    def run(ask: Ask) -> Answer:
        ready.wait()
        return ask()

    with ThreadPoolExecutor(len(asks)) as runners:
        return list(runners.map(run, asks))


def statuses(answers: list[Answer]) -> list[int]:
    return sorted(answer.status for answer in answers)


def test_two_dependencies_that_close_a_cycle_never_both_come_to_be(desk: Desk) -> None:
    for number in range(RACES):
        one, other = f"one-{number}", f"other-{number}"
        desk.make(one)
        desk.make(other)
        answers = race(
            partial(desk.ask, "PUT", f"/services/{one}/dependencies/{other}"),
            partial(desk.ask, "PATCH", f"/services/{other}", {"dependencies": [one]}),
        )
        assert statuses(answers) == [200, 409]


def test_a_name_is_given_once(desk: Desk) -> None:
    for number in range(RACES):
        names = [f"weather-{number}", f"WEATHER-{number}"] * (RUNNERS // 2)
        answers = race(*(partial(desk.ask, "POST", "/services", {"name": name}) for name in names))
        assert statuses(answers) == [201] + [409] * (RUNNERS - 1)


def test_a_creation_that_is_sent_several_times_at_once_happens_once(desk: Desk) -> None:
    for number in range(RACES):
        body, headers = {"name": f"weather-{number}"}, {"idempotency-key": f"made up {number}"}
        answers = race(*[partial(desk.ask, "POST", "/services", body, headers=headers)] * RUNNERS)
        made = {answer.json()["id"] for answer in answers if answer.status == 201}
        assert len(made) == 1
        codes = {answer.json()["code"] for answer in answers if answer.status != 201}
        assert codes <= {"idempotency_in_progress"}


def test_of_several_changes_of_one_version_one_is_made(desk: Desk) -> None:
    for number in range(RACES):
        path, headers = f"/services/weather-{number}", {"if-match": 'W/"1"'}
        desk.make(f"weather-{number}")
        changes = [
            partial(desk.ask, "PATCH", path, {"version": str(version)}, headers=headers)
            for version in range(RUNNERS - 1)
        ]
        answers = race(*changes, partial(desk.ask, "DELETE", path, headers=headers))
        found = Counter(statuses(answers))
        # Where it was the deletion, the others find nothing to change.
        assert found[200] == 1
        assert found[412] + found[410] + found[404] == RUNNERS - 1


def test_of_several_who_bring_a_service_back_or_make_it_none_makes_two(desk: Desk) -> None:
    for number in range(RACES):
        name = f"weather-{number}"
        desk.make(name)
        desk.done("DELETE", f"/services/{name}")
        asks = [
            partial(desk.ask, "POST", f"/services?on_conflict={what}", {"name": name})
            for what in ("restore", "update") * (RUNNERS // 2)
        ]
        assert statuses(race(*asks)) in ([200] * RUNNERS, [200] * (RUNNERS - 1) + [201])
        assert desk.names(f"/services?name={name}") == [name]


def test_who_removes_a_service_for_good_and_who_brings_it_back_never_both_have_it(desk: Desk) -> None:
    admin = desk.people.key(tenant_id=desk.tenant, admin_role="tenant_admin")["key"]
    for number in range(RACES):
        name = f"weather-{number}"
        made = desk.make(name)
        desk.done("DELETE", f"/services/{name}")
        answers = race(
            *[partial(desk.ask, "DELETE", f"/services/{made['id']}?hard=true", key=admin)] * 2,
            partial(desk.ask, "POST", f"/services/{made['id']}/restore"),
            partial(desk.ask, "POST", "/services?on_conflict=restore", {"name": name}),
            partial(desk.ask, "POST", "/heartbeats", {"items": [{"ref": made["id"]}, {"ref": name}]}),
        )
        assert {answer.status for answer in answers} <= {200, 201, 404, 409, 410}, [answer.body for answer in answers]
        assert desk.names(f"/services?name={name}") == [name]
        assert len(desk.names(f"/services?name={name}&include_deleted=true")) == 1


def test_of_those_that_wait_for_a_name_and_who_takes_it_each_finds_the_other(desk: Desk) -> None:
    for number in range(RACES):
        name, waiting = f"maps-{number}", [f"web-{number}-{place}" for place in range(RUNNERS - 1)]
        answers = race(
            *(partial(desk.ask, "POST", "/services", {"name": one, "pending_dependencies": [name]}) for one in waiting),
            partial(desk.ask, "POST", "/services", {"name": name}),
        )
        assert statuses(answers) == [201] * RUNNERS
        for one in waiting:
            shown = desk.done("GET", f"/services/{one}", headers={"cache-control": "no-cache"})
            assert (len(shown["dependencies"]), shown["pending_dependencies"]) == (1, [])


def test_changes_of_many_and_of_one_reports_and_sights_do_not_block_each_other(desk: Desk) -> None:
    names = [f"service-{number}" for number in range(30)]
    desk.done("POST", "/services/bulk", {"items": [{"name": name} for name in names]})
    beats = [{"ref": name} for name in names]
    for number in range(RACES):
        one, other = names[number % 30], names[(number * 7 + 3) % 30]
        version, report = {"version": str(number)}, {"status": ("healthy", "unhealthy")[number % 2]}
        bulk = [{"selector": {"refs": refs}, "patch": version} for refs in (names, names[::-1])]
        answers = race(
            *(partial(desk.ask, "PATCH", "/services/bulk", body) for body in bulk),
            partial(desk.ask, "POST", "/heartbeats", {"items": beats}),
            partial(desk.ask, "POST", "/heartbeats", {"items": beats[::-1]}),
            partial(desk.ask, "PUT", f"/services/{one}/health", report),
            partial(desk.ask, "PUT", f"/services/{other}/health", report),
            partial(desk.ask, "PATCH", f"/services/{one}", version),
            partial(desk.ask, "POST", f"/services/{other}/heartbeat"),
        )
        assert statuses(answers) == [200] * 8, [answer.body for answer in answers if answer.status != 200]
