"""What nobody sends by accident: the registry answers it as it does everything else, and never fails."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.test_registry_http import PREFIX, Desk
from tests.fixtures.servers import SERVERS, running_servers

NULL_AND_EMPTY = [{"filter": {"name": None}}, {"filter": {"stale_after": None}}]


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    with running_servers(SERVERS[0]) as servers, living(servers, UNPROBED) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


@pytest.mark.parametrize("tag", ["weather", "日本", "ä", 'a"b>c', "100% #1?", "é" * 60])
def test_a_page_links_to_the_next_whatever_the_tag_is(desk: Desk, tag: str) -> None:
    for number in range(3):
        desk.make(f"service {number}", tags=[tag])
    path, names = f"{PREFIX}/services/by-tag/{quote(tag, safe='')}?limit=1", []
    while path:
        answer = desk.people.ask("GET", path, key=desk.key)
        names += [item["name"] for item in answer.json()["items"]]
        path = (answer.header("link") or "").partition(">")[0].removeprefix("<")
    assert names == ["service 0", "service 1", "service 2"]


@pytest.mark.parametrize("name", ["created_after", "created_before", "updated_since"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-23:59"])
def test_a_time_of_a_year_that_utc_has_not_is_refused(desk: Desk, name: str, time: str) -> None:
    assert desk.refused("GET", f"/services?{name}={quote(time)}") == (422, "invalid_request", name)
    status, _, param = desk.refused("DELETE", "/services/bulk", {"selector": {"filter": {name: time}}})
    assert (status, param) == (422, f"selector.filter.{name}")


def test_a_check_of_a_year_that_utc_has_not_is_refused(desk: Desk) -> None:
    desk.make("weather")
    report = {"status": "healthy", "checked_at": "0001-01-01T00:00:00+14:00"}
    assert desk.refused("PUT", "/services/weather/health", report) == (422, "invalid_request", "checked_at")


@pytest.mark.parametrize("text", ["\u00bd", "\u00b2", "\u2460"])
def test_a_word_that_is_none_to_the_database_finds_no_tool(desk: Desk, text: str) -> None:
    answer = desk.ask("GET", f"/tools?q={quote(text)}")
    assert (answer.status, answer.json()["items"]) == (200, [])


@pytest.mark.parametrize("path", ["/statistics/timeseries?metric=probes&", "/services/{name}/health/history?"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
@pytest.mark.parametrize("end", ["from", "to"])
def test_numbers_over_time_are_of_whichever_years_or_refused(desk: Desk, path: str, end: str, time: str) -> None:
    desk.make("weather")
    assert desk.ask("GET", f"{path.format(name='weather')}{end}={time}").status in (200, 422)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_the_first_and_the_last_moment_are_times(desk: Desk, time: str) -> None:
    desk.make("weather")
    expected = ["weather"] if time.startswith("0001") else []
    assert desk.names(f"/services?created_after={time}") == expected


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        r'{"a":"\u0000"}',
        r'{"a":"\ud800"}',
        r'{"\ud800":1}',
        '{"a":' * 100 + "1" + "}" * 100,
        "[]",
        "1",
        "{",
    ],
)
def test_metadata_that_no_service_could_have_is_refused(desk: Desk, metadata: str) -> None:
    assert desk.refused("GET", f"/services?metadata={quote(metadata)}") == (422, "invalid_request", "metadata")


def test_an_empty_object_and_an_empty_list_are_different_questions(desk: Desk) -> None:
    desk.make("list", service_metadata={"a": []})
    desk.make("object", service_metadata={"a": {}})
    # One after the other, so that the second might be answered with what was kept of the first.
    found = [desk.names(f"/services?metadata={quote(metadata)}") for metadata in ('{"a":{}}', '{"a":[]}')]
    assert found == [["object"], ["list"]]


@pytest.mark.parametrize("text", ["%00", "a%00", "%ff", "_", "'", "%5C", ".*", "a " * 17])
def test_a_search_without_words_or_with_too_many_is_refused(desk: Desk, text: str) -> None:
    assert desk.refused("GET", f"/services?q={text.replace(' ', '+')}") == (422, "invalid_request", "q")


@pytest.mark.parametrize("text", ["wea'", "wea:*", "wea%5C", "(wea)", "wea%26%21", "wea%00".removesuffix("%00")])
def test_what_means_something_to_searches_of_others_means_nothing_here(desk: Desk, text: str) -> None:
    desk.make("weather")
    assert desk.names(f"/services?q={text}") == ["weather"]


@pytest.mark.parametrize("length", [86_399_999_999, 1e300, -5, 5, True, []])
def test_a_length_of_time_in_a_body_is_written_as_in_a_query(desk: Desk, length: Any) -> None:
    body = {"selector": {"filter": {"stale_after": length}}}
    status, _, param = desk.refused("DELETE", "/services/bulk", body)
    assert (status, param) == (422, "selector.filter.stale_after")


@pytest.mark.parametrize("selector", NULL_AND_EMPTY)
def test_a_filter_that_is_null_does_not_select_everything(desk: Desk, selector: dict[str, Any]) -> None:
    desk.make("weather")
    status, _, param = desk.refused("DELETE", "/services/bulk", {"selector": selector})
    assert (status, param) == (422, "selector.filter")
    assert desk.names("/services") == ["weather"]


@pytest.mark.parametrize("field", ["item_id", "self", "changes", "name_key", "__class__"])
def test_a_field_that_there_is_not_is_refused_for_one_that_would_come_back(desk: Desk, field: str) -> None:
    desk.make("weather")
    desk.done("DELETE", "/services/weather")
    body = {"on_conflict": "restore", "items": [{"name": "weather", field: "x"}]}
    (result,) = desk.done("POST", "/services/bulk", body)["results"]
    assert (result["status"], result["code"], result["param"]) == ("failed", "invalid_request", field)
    assert desk.names("/services") == []


@pytest.mark.parametrize("on_conflict", ["update", "restore"])
def test_services_that_there_are_may_get_dependencies_by_name_in_bulk(desk: Desk, on_conflict: str) -> None:
    maps = desk.make("maps")
    desk.make("weather")
    if on_conflict == "restore":
        desk.done("DELETE", "/services/weather")
    body = {"on_conflict": on_conflict, "items": [{"name": "weather", "dependencies": ["Maps"]}]}
    (result,) = desk.done("POST", "/services/bulk", body)["results"]
    assert (result["status"], result["item"]["dependencies"]) == (f"{on_conflict}d", [maps["id"]])


def test_a_long_line_of_services_that_depend_on_the_next_is_made_at_once(desk: Desk) -> None:
    names = [f"service {number}" for number in range(500)]
    items = [{"name": name, "dependencies": [after]} for name, after in pairwise(names)]
    answer = desk.done("POST", "/services/bulk", {"items": [*items, {"name": names[-1]}]})
    assert (answer["created"], answer["failed"]) == (500, 0)


@pytest.mark.parametrize("character", ["😀", "\x01", '"'])
def test_a_list_by_name_goes_on_after_the_longest_name(desk: Desk, character: str) -> None:
    names = [character * 254 + str(number) for number in range(3)]
    for name in names:
        desk.make(name)
    found, cursor = list[str](), ""
    while True:
        page = desk.done("GET", f"/services?sort=name&limit=1{cursor}")
        found += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == names


def test_an_admin_repeats_a_creation_in_another_tenant(desk: Desk, people: People) -> None:
    other = Desk(people)
    headers = {"idempotency-key": "made up"}
    made = [
        desk.ask("POST", f"/services?tenant_id={tenant}", {"name": "weather"}, key=people.gateway.key, headers=headers)
        for tenant in (desk.tenant, desk.tenant, other.tenant)
    ]
    assert [answer.status for answer in made] == [201, 201, 201]
    assert [answer.header("x-hx-idempotent-replay") for answer in made] == [None, "true", None]
    first, again, theirs = (answer.json() for answer in made)
    assert first == again
    assert [item["tenant_id"] for item in (first, theirs)] == [desk.tenant, other.tenant]


def test_what_is_shown_of_others_is_part_of_what_an_etag_stands_for(desk: Desk) -> None:
    desk.make("maps")
    desk.make("weather")
    path = "/services/maps?expand=dependents"
    before, alone = desk.ask("GET", path).header("etag"), desk.ask("GET", "/services/maps").header("etag")
    assert (before, alone) != (None, None)
    desk.done("PUT", "/services/weather/dependencies/maps")
    after = [desk.ask("GET", where, headers={"if-none-match": f"{before}, {alone}"}) for where in (path, path[:14])]
    assert [answer.status for answer in after] == [200, 200]
    known = {"if-none-match": after[0].header("etag") or ""}
    assert desk.ask("GET", path, headers=known).status == 304
    desk.done("PATCH", "/services/weather", {"version": "2"})
    assert desk.ask("GET", path, headers=known).status == 200
    # Of whichever it is, what a change is compared with is the version.
    for tag in (before, alone, after[0].header("etag"), after[1].header("etag")):
        desk.done("PATCH", "/services/maps", {}, headers={"if-match": tag})


def test_a_strong_etag_is_known_as_a_weak_one_is(desk: Desk) -> None:
    desk.make("weather")
    for known in ('W/"1"', '"1"', '"0", "1"', "*"):
        assert desk.ask("GET", "/services/weather", headers={"if-none-match": known}).status == 304
    assert desk.ask("GET", "/services/weather", headers={"if-none-match": '"2"'}).status == 200


def test_a_body_that_is_not_said_to_be_json_is_refused_as_the_document_says(desk: Desk) -> None:
    document = desk.people.gateway.get("/openapi.json").json()["paths"][f"{PREFIX}/services"]["post"]
    status, code, _ = desk.refused("POST", "/services", {"name": "x"}, headers={"content-type": "text/plain"})
    said = document["responses"][str(status)]["content"]["application/problem+json"]["example"]
    assert (status, code) == (415, said["code"])


def test_a_head_request_does_not_follow_changes(desk: Desk) -> None:
    answer = desk.ask("HEAD", "/events")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
