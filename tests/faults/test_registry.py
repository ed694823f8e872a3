"""The registry while its stores are away: reads go on without Redis, and who follows changes misses none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.sse_client import EventStream
from tests.acceptance.test_registry_http import PREFIX, Desk
from tests.fixtures.servers import Servers

# What waiting for Redis may add to a read and to a change is 0.2 s and 0.5 s; a busy machine gets five times that.
READ_SECONDS = 1.0
CHANGE_SECONDS = 2.5
HEALED_SECONDS = 60.0
CHANGES = 30

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers, UNPROBED) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    # The test before this one may have held a store up.
    people.gateway.wait_until(lambda: people.ask("GET", "/v1/keys").status == 200, HEALED_SECONDS)
    return Desk(people)


def took(began: float) -> float:
    return time.monotonic() - began


def test_reads_and_changes_go_on_while_redis_hangs(desk: Desk, servers: Servers) -> None:
    desk.make("weather")
    slowest_read = slowest_change = 0.0
    servers.redis.freeze()
    try:
        for number in range(CHANGES):
            began = time.monotonic()
            desk.done("PATCH", "/services/weather", {"version": str(number)})
            slowest_change = max(slowest_change, took(began))
            for path in ("/services/weather", "/services?limit=1", "/statistics"):
                began = time.monotonic()
                answer = desk.done("GET", path)
                slowest_read = max(slowest_read, took(began))
                assert answer.get("version", str(number)) == str(number)
    finally:
        servers.redis.thaw()
    assert (slowest_read < READ_SECONDS, slowest_change < CHANGE_SECONDS) == (True, True), (
        slowest_read,
        slowest_change,
    )


def test_who_follows_stays_and_misses_nothing_while_postgres_is_away_and_back(desk: Desk, servers: Servers) -> None:
    desk.make("weather")
    since = int(desk.done("GET", "/changes")["next_since"])
    path = f"{PREFIX}/events?since={since}"
    streams = [EventStream(desk.people.gateway, path, key=desk.reader, seconds=HEALED_SECONDS) for _ in range(5)]
    seen: list[list[str]] = [[] for _ in streams]

    def follow(place: int) -> None:
        for event in streams[place].events():
            seen[place].append(event.data["data"]["after"]["version"])
            if len(seen[place]) == CHANGES:
                return

    following = [threading.Thread(target=follow, args=(place,)) for place in range(len(streams))]
    for thread in following:
        thread.start()
    for number in range(CHANGES):
        if number == CHANGES // 3:
            servers.postgres.kill()
            time.sleep(2)
            servers.postgres.start()
        desk.people.gateway.wait_until(lambda version=str(number): changed(desk, version), HEALED_SECONDS)  # type: ignore[misc]
    for thread in following:
        thread.join(HEALED_SECONDS)
    for stream in streams:
        stream.cut()
    # A change whose answer was lost is asked for again, and is none then.
    assert seen == [[str(number) for number in range(CHANGES)]] * len(streams)


def changed(desk: Desk, version: str) -> bool:
    """Ask for a change; return whether it is made. While the database is away it is not, and 503 says so."""
    answer = desk.ask("PATCH", "/services/weather", {"version": version})
    assert answer.status in (200, 503), answer.body
    return answer.status == 200
