"""Who follows the changes of a registry sees each once and in order, however often it is cut off."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.sse_client import EventStream
from tests.acceptance.test_registry_http import PREFIX, Desk
from tests.fixtures.servers import Servers

CHANGES = int(os.environ.get("HX_TEST_FEED_CHANGES", "400"))
CUTS = int(os.environ.get("HX_TEST_FEED_CUTS", "25"))
WRITERS = 8
SEED = 20261130
# What is changed is told of within milliseconds; this is what a busy machine needs.
SECONDS = 30.0


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers, UNPROBED) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


def stream(desk: Desk, query: str = "", *, last_id: str | None = None, key: str | None = None) -> EventStream:
    return EventStream(
        desk.people.gateway, f"{PREFIX}/events{query}", key=key or desk.reader, last_id=last_id, seconds=SECONDS
    )


def place(desk: Desk) -> int:
    """Return the number that what is changed from now on comes after."""
    return int(desk.done("GET", "/changes")["next_since"])


def test_changes_are_told_as_they_happen(desk: Desk) -> None:
    since = place(desk)
    events = stream(desk, f"?since={since}")
    made = desk.make("weather")
    desk.make("maps")
    desk.done("PATCH", "/services/weather", {"version": "2"})
    desk.done("PUT", "/services/weather/health", {"status": "healthy"})
    desk.done("POST", "/services/weather/heartbeat")
    desk.done("PUT", "/services/weather/dependencies/maps")
    desk.done("DELETE", "/services/weather")
    desk.done("POST", "/services/weather/restore")
    told = [events.next() for _ in range(7)]
    assert [(event.type, event.data["subject"]) for event in told] == [
        ("service.created", "weather"),
        ("service.created", "maps"),
        ("service.updated", "weather"),
        ("service.status_changed", "weather"),
        ("service.dependency_changed", "weather"),
        ("service.deleted", "weather"),
        ("service.restored", "weather"),
    ]
    assert (events.status, events.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    changed = told[2].data["data"]
    assert (changed["service_id"], changed["before"], changed["after"]) == (
        made["id"],
        {"version": None},
        {"version": "2"},
    )
    seqs = [int(event.id) for event in told]
    assert seqs == sorted(seqs)
    assert seqs[0] > since
    events.cut()


def test_a_client_that_is_cut_off_again_and_again_sees_each_change_once_and_in_order(desk: Desk) -> None:
    since = place(desk)
    names = [f"service {writer}" for writer in range(WRITERS)]
    for name in names:
        desk.make(name)
    each = CHANGES // WRITERS
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for number in range(each):
                desk.done("PATCH", f"/services/{name.replace(' ', '%20')}", {"version": str(number)})
        except BaseException as error:
            failures.append(error)
            raise

    writers = [threading.Thread(target=write, args=(name,)) for name in names]
    for writer in writers:
        writer.start()
    seen, cuts = follow(desk, since, total=WRITERS + each * WRITERS)
    for writer in writers:
        writer.join()
    assert not failures
    assert cuts >= min(CUTS, CHANGES // 10)
    seqs = [int(event["id"]) for event in seen]
    assert seqs == sorted(set(seqs))
    for name in names:
        versions = [event["data"]["after"].get("version") for event in seen if event["subject"] == name]
        assert versions == [None, *(str(number) for number in range(each))]


def follow(desk: Desk, since: int, *, total: int) -> tuple[list[dict[str, Any]], int]:
    """Return all events after ``since``, read over connections that end at random, and how many of them did."""
    chance, seen, cuts = random.Random(SEED), list[dict[str, Any]](), 0
    last_id = str(since)
    ends = time.monotonic() + 60 + CHANGES / 20
    while len(seen) < total:
        assert time.monotonic() < ends, f"{len(seen)} of {total}"
        events = stream(desk, last_id=last_id)
        # As many bytes as a client may have got when its connection broke: in the middle of an event, too.
        most = chance.randint(50, 2 * total * 300 // CUTS) if cuts < CUTS else None
        for event in events.events(most_bytes=most):
            seen.append(event.data)
            last_id = event.id
            if len(seen) == total:
                break
        events.cut()
        cuts += 1
    return seen, cuts


def test_only_what_is_wanted_is_told(desk: Desk) -> None:
    since = place(desk)
    desk.make("weather", tags=["a"], is_required=True)
    desk.make("maps", tags=["b"])
    desk.done("PATCH", "/services/maps", {"version": "2"})
    expected = {
        "": 3,
        "types=service.updated": 1,
        "types=service.created,service.deleted": 2,
        "names=WEATHER": 1,
        "tags=b": 2,
        "tags=a,b": 3,
        "required_only=true": 1,
        "types=service.updated&tags=a": 0,
    }
    found = {query: len(desk.done("GET", f"/changes?since={since}&{query}".rstrip("&"))["items"]) for query in expected}
    assert found == expected


def test_a_poll_waits_for_a_change_and_goes_on_from_it(desk: Desk) -> None:
    since = place(desk)
    answers: list[Any] = []
    polling = threading.Thread(
        target=lambda: answers.append(desk.done("GET", f"/changes?since={since}&wait=30s", key=desk.reader))
    )
    polling.start()
    desk.make("weather")
    polling.join(SECONDS)
    (answer,) = answers
    assert [item["subject"] for item in answer["items"]] == ["weather"]
    assert answer["next_since"] == answer["items"][0]["seq"]
    for number in range(5):
        desk.make(f"service {number}")
    pages, more = [], True
    since = answer["next_since"]
    while more:
        page = desk.done("GET", f"/changes?since={since}&limit=2")
        pages.append([item["subject"] for item in page["items"]])
        since, more = page["next_since"], page["has_more"]
    assert [name for page in pages for name in page] == [f"service {number}" for number in range(5)]
    assert desk.ask("GET", f"/changes?since={since}").header("x-registry-index") == str(since)


def test_a_place_of_another_history_begins_anew(desk: Desk) -> None:
    desk.make("weather")
    ahead = place(desk) + 1_000_000
    polled = desk.done("GET", f"/changes?since={ahead}&wait=30s")
    assert (polled["items"], polled["reset"], polled["next_since"]) == ([], True, place(desk))
    events = stream(desk, last_id=str(ahead))
    reset = events.next()
    assert (reset.type, int(reset.id)) == ("registry.reset", place(desk))
    desk.make("maps")
    assert events.next().data["subject"] == "maps"
    events.cut()


def test_nobody_hears_of_another_tenant(desk: Desk, people: People) -> None:
    rival = Desk(people)
    since = place(desk)
    events = stream(desk, f"?since={since}")
    rival.make("secret")
    desk.make("weather")
    assert events.next().data["subject"] == "weather"
    assert [item["subject"] for item in desk.done("GET", f"/changes?since={since}")["items"]] == ["weather"]
    events.cut()


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/events?since=x", "since"),
        ("/events?since=-1", "since"),
        ("/events?types=service.born", "types"),
        ("/events?colour=red", "colour"),
        ("/changes?wait=soon", "wait"),
        ("/changes?wait=61s", "wait"),
        ("/changes?limit=0", "limit"),
        ("/changes?since=1&since=2", "since"),
        ("/changes?required_only=yes", "required_only"),
    ],
)
def test_a_parameter_that_is_not_understood_is_named(desk: Desk, path: str, param: str) -> None:
    assert desk.refused("GET", path) == (400, "invalid_request", param)


def test_an_odd_last_event_id_is_refused(desk: Desk) -> None:
    events = stream(desk, last_id="7; drop")
    assert b"last-event-id" in events.body()
    assert events.status == 400


def test_redis_tells_of_changes_too(desk: Desk, servers: Servers) -> None:
    client: Any = redis.Redis.from_url(servers.redis.url)
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("hx:registry")
        channel.get_message(timeout=SECONDS)
        made = desk.make("weather")
        while (message := channel.get_message(timeout=SECONDS)) is not None:
            if made["id"].encode() in message["data"]:
                break
        assert message is not None
        assert b'"type":"service.created"' in message["data"]
    client.close()


def test_a_server_that_stops_ends_its_streams_at_once(servers: Servers) -> None:
    with living(servers, {"HX_DRAIN_SECONDS": "30"}) as people:
        desk = Desk(people)
        events = stream(desk, f"?since={place(desk)}")
        desk.make("weather")
        assert events.next().data["subject"] == "weather"
        began = time.monotonic()
        assert people.gateway.stop() == 0
        assert time.monotonic() - began < 15
        assert list(events.events()) == []
        events.cut()
