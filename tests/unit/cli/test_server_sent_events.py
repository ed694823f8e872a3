"""A client reads the same events however their bytes are cut, and knows where to go on."""

from __future__ import annotations

import pytest

from hx_gateway.cli.server_sent_events import EventReader, EventTooLarge, ServerEvent
from hx_gateway.kit.sse import MAX_EVENT_BYTES

STREAM = (
    "retry: 1500\nid: 7\n\n"
    ": alive\n\n"
    'id: 8\nevent: service.created\ndata: {"name": "Wettér"}\n\n'
    "data: one\ndata: two\n\n"
    "id: 9\r\ndata:three\r\n\r\n"
    "id: 12\n\n"
).encode()
EVENTS = [
    ServerEvent("8", "service.created", '{"name": "Wettér"}'),
    ServerEvent("8", "message", "one\ntwo"),
    ServerEvent("9", "message", "three"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_events_are_the_same_however_their_bytes_are_cut(size: int) -> None:
    reader = EventReader()
    told = [event for at in range(0, len(STREAM), size) for event in reader.feed(STREAM[at : at + size])]
    assert told == EVENTS
    assert (reader.last_id, reader.retry_seconds) == ("12", 1.5)


def test_a_place_is_kept_where_the_next_connection_tells_none() -> None:
    reader = EventReader("7")
    assert reader.feed(b"data: x\n\n") == [ServerEvent("7", "message", "x")]


def test_half_an_event_is_none_and_moves_no_place() -> None:
    reader = EventReader("7")
    assert reader.feed(b"id: 8\ndata: x\n") == []
    assert reader.last_id == "7"


def test_ids_and_times_that_the_standard_ignores_are_ignored() -> None:
    reader = EventReader("7")
    reader.feed("id: a\0b\nretry: soon\nretry: ²\n\n".encode())
    assert (reader.last_id, reader.retry_seconds) == ("7", None)


def test_an_event_that_does_not_end_is_refused() -> None:
    reader = EventReader()
    with pytest.raises(EventTooLarge):
        reader.feed(b"data: " + b"x" * (MAX_EVENT_BYTES + 1))
