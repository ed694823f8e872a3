"""Where a stream is cut decides nothing, not even inside of a line end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.translate.stream_usage import StreamRelay, usage_from_body

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
WORD = b'data: {"choices":[{"delta":{}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(data=st.data())
def test_the_output_is_the_input_without_the_event_for_any_cut(end: bytes, data: st.DataObject) -> None:
    whole = (WORD + USAGE + DONE).replace(b"\n", end)
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    relay = StreamRelay(drop_usage=True)
    bounds = [0, *places, len(whole)]
    out = b"".join(relay.feed(whole[a:b]) for a, b in pairwise(bounds)) + relay.finish()
    assert out == (WORD + DONE).replace(b"\n", end)
    assert relay.saw_done


@pytest.mark.parametrize("tokens", [b"-1", b"1e400", b"99999999999999999999999999", b'"7"', b"true"])
def test_a_count_that_cannot_be_is_not_believed_and_flagged(tokens: bytes) -> None:
    relay = StreamRelay(drop_usage=False)
    relay.feed(USAGE.replace(b":1,", b":" + tokens + b","))
    assert relay.usage is None
    assert relay.usage_invalid or tokens == b"1e400"
    assert usage_from_body(b'{"usage":{"prompt_tokens":' + tokens + b"}}") is None
