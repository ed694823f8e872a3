"""A stream passes verbatim, whatever the cuts; only the event nobody asked for is taken out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hx_gateway.errors import UpstreamFailed
from hx_gateway.events import TokenUsage
from hx_gateway.kit import sse
from hx_gateway.translate.stream_usage import StreamRelay, error_event, usage_from_body

DELTA = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
AZURE = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
NULL = b'data: {"choices":[],"usage":null}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\n'
LAST_WITH_USAGE = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def relay(chunks: list[bytes], *, drop: bool = True) -> tuple[bytes, StreamRelay]:
    watcher = StreamRelay(drop_usage=drop)
    out = b"".join(watcher.feed(chunk) for chunk in chunks)
    return out + watcher.finish(), watcher


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


EVENTS = st.lists(st.sampled_from([DELTA, AZURE, NULL, LAST_WITH_USAGE, COMMENT, b"data: {broken\n\n"]), max_size=6)


@given(
    events=EVENTS,
    places=st.lists(st.integers(0, 2000), max_size=12),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
@settings(max_examples=300)
def test_the_client_gets_every_byte_but_the_usage_event(events: list[bytes], places: list[int], ending: bytes) -> None:
    kept = b"".join([*events, DONE]).replace(b"\n", ending)
    sent = b"".join([*events, USAGE, DONE]).replace(b"\n", ending)
    out, watcher = relay(cut(sent, places))
    assert out.replace(b"\r", b"").replace(b"\n", b"") == kept.replace(b"\r", b"").replace(b"\n", b"")
    assert ending != b"\n" or out == kept
    assert watcher.usage == TokenUsage(prompt_tokens=7, completion_tokens=3)
    assert watcher.saw_done
    assert watcher.at_boundary


@given(events=EVENTS, places=st.lists(st.integers(0, 2000), max_size=12))
def test_without_dropping_every_chunk_goes_on_as_it_came(events: list[bytes], places: list[int]) -> None:
    chunks = cut(b"".join([*events, USAGE, DONE]), places)
    watcher = StreamRelay(drop_usage=False)
    assert [watcher.feed(chunk) for chunk in chunks] == chunks
    assert watcher.finish() == b""
    assert watcher.usage == TokenUsage(prompt_tokens=7, completion_tokens=3)


@pytest.mark.parametrize(
    "event", [AZURE, NULL, LAST_WITH_USAGE, COMMENT, DELTA, b"data:[DONE]\n\n", b"\xef\xbb\xbfdata: x\n\n"]
)
def test_no_other_event_is_dropped(event: bytes) -> None:
    assert relay([event])[0] == event


@pytest.mark.parametrize(
    "usage", [b"null", b'{"prompt_tokens":-1,"completion_tokens":1}', b'{"prompt_tokens":"x"}', b"[]", b"{}"]
)
def test_a_usage_that_cannot_be_true_counts_as_none(usage: bytes) -> None:
    assert relay([b'data: {"choices":[{}],"usage":' + usage + b"}\n\n"])[1].usage is None
    assert usage_from_body(b'{"usage":' + usage + b"}") is None


def test_the_last_of_two_usages_counts() -> None:
    assert relay([LAST_WITH_USAGE, USAGE, DONE])[1].usage == TokenUsage(prompt_tokens=7, completion_tokens=3)


def test_an_event_without_end_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hx_gateway.translate.stream_usage.MAX_EVENT_BYTES", 100)
    long = b"data: " + b"x" * 250
    watcher = StreamRelay(drop_usage=True)
    sent = [
        watcher.feed(long[:50]),
        watcher.feed(long[50:]),
        watcher.feed(b"y\n"),
        watcher.feed(b"\n" + USAGE + DELTA),
    ]
    assert sent == [b"", long, b"y\n", b"\n" + DELTA]
    assert watcher.at_boundary


def test_a_stream_that_breaks_off_is_known_to_end_inside_an_event() -> None:
    watcher = StreamRelay(drop_usage=False)
    watcher.feed(DELTA + b"data: {")
    assert not watcher.at_boundary


def test_an_error_event_is_seen() -> None:
    assert relay([b'data: {"error":{"message":"x"}}\n\n'])[1].saw_error


def test_our_own_error_event_reads_as_openai_clients_expect() -> None:
    event = error_event(UpstreamFailed("It broke."))
    assert usage_from_body(event) is None
    assert sse.event_data(event) == (
        b'{"error":{"message":"It broke.","type":"upstream_error","param":null,"code":"upstream_error"}}'
    )
