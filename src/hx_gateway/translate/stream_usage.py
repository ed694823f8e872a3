"""Reads the token counts out of an answer that passes by, and takes out the one event the client did not ask for."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hx_gateway.errors import HXError
from hx_gateway.events import TokenUsage
from hx_gateway.kit.sse import MAX_EVENT_BYTES, event_data, event_ends
from hx_gateway.kit.token_estimate import tokens_in

DONE = b"[DONE]"
# What every event but the last holds once usage was asked for.
_NO_USAGE = b'"usage":null'
# Of the four bytes that end an event at most, three may be there already.
_LONGEST_PART = 3


# More than any call can have, and still an exact integer everywhere.
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class _Choices(msgspec.Struct):
    choices: list[msgspec.Raw]


class _Error(msgspec.Struct):
    error: msgspec.Raw


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def usage_from_body(data: bytes) -> TokenUsage | None:
    """Return the usage of a whole answer; ``None`` where it is absent, negative or not readable."""
    try:
        usage = _decode_answer(data).usage
    except _UNREADABLE:
        return None
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=min(cached, usage.prompt_tokens),
    )


def error_event(error: HXError) -> bytes:
    """Return the event that ends a stream which failed."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return b"data: " + msgspec.json.encode({"error": body}) + b"\n\n"


class StreamRelay:
    """Watches a stream pass. Its bytes go on verbatim, apart from one event when ``drop_usage`` is set.

    That event has an empty list of choices and a usage object: what ``stream_options.include_usage`` adds. To know
    it, an event is held back until it is whole, up to :data:`~hx_gateway.kit.sse.MAX_EVENT_BYTES`; a larger one goes
    on unread. Without ``drop_usage`` nothing is ever held back.

    ``usage`` is the last valid one seen; ``saw_done`` and ``saw_error`` tell how the stream ended; ``at_boundary``
    whether what was sent so far ends with a whole event; ``usage_invalid`` whether a usage object was not
    believed. ``events`` and ``bytes_seen`` count what came, for an estimate of what was generated.
    """

    def __init__(self, *, drop_usage: bool) -> None:
        self.usage: TokenUsage | None = None
        self.saw_done = False
        self.saw_error = False
        self.usage_invalid = False
        self.events = 0
        self.bytes_seen = 0
        self._first_event_bytes = 0
        self._drop = drop_usage
        self._begun = b""  # an event that is not whole yet; sent already unless we drop
        self._unread = False  # inside an event that is too large to hold; _begun is its last few bytes, sent already

    @property
    def at_boundary(self) -> bool:
        """Whether an event could be added to what was sent."""
        return not self._unread and (self._drop or not self._begun)

    def estimated_tokens(self) -> int:
        """Return about how many tokens came, for a stream that told no usage.

        At least one an event: that is how most servers stream. Where more text than that came, a token for four
        bytes of what the events hold beyond the first one, which holds no text (OpenAI's API: its delta is the role).
        """
        text = self.bytes_seen - self.events * self._first_event_bytes
        return max(self.events, tokens_in(text))

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to send on for ``chunk``."""
        self.bytes_seen += len(chunk)
        if not self._begun and chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1:
            return chunk if self._read(chunk) else b""  # the common case: one whole event
        out = self._end_unread(chunk) if self._unread else b""
        rest = chunk[len(out) :]
        if self._unread or not rest:
            return out
        kept = self._read_events(rest)
        return out + kept if self._drop else chunk

    def finish(self) -> bytes:
        """Return what is still held back; call it once, after the last chunk."""
        rest, self._begun = self._begun, b""
        if not rest or self._unread:
            return b""
        return rest if self._read(rest) and self._drop else b""

    def _end_unread(self, chunk: bytes) -> bytes:
        """Return the part of ``chunk`` that still belongs to the event nobody reads."""
        known = self._begun
        ends = event_ends(known + chunk)
        if not ends:
            self._begun = (known + chunk)[-_LONGEST_PART:]
            return chunk
        self._unread, self._begun = False, b""
        return chunk[: ends[0] - len(known)]

    def _read_events(self, chunk: bytes) -> bytes:
        data = self._begun + chunk
        kept: list[bytes] = []
        start = 0
        for end in event_ends(data, max(0, len(self._begun) - _LONGEST_PART)):
            if end == len(data) and data.endswith(b"\r"):
                break  # perhaps half of a CRLF, whose LF must share the fate of its event
            event = data[start:end]
            if self._read(event):
                kept.append(event)
            start = end
        self._begun = data[start:]
        if len(self._begun) > MAX_EVENT_BYTES:
            kept.append(self._begun)
            self._unread, self._begun = True, self._begun[-_LONGEST_PART:]
        return b"".join(kept)

    def _read(self, event: bytes) -> bool:
        """Take note of one event; return whether it goes on to the client."""
        self.events += 1
        if not self._first_event_bytes:
            self._first_event_bytes = len(event)
        if b'"usage"' not in event or (_NO_USAGE in event and event.count(b'"usage"') == 1):
            if DONE in event:
                self.saw_done = self.saw_done or event_data(event) == DONE
            elif b'"error"' in event:
                self._note_error(event)
            return True
        data = event_data(event)
        if data is None:
            return True
        usage = usage_from_body(data)
        if usage is not None:
            self.usage = usage
        elif _holds_usage(data):
            self.usage_invalid = True
        return not (self._drop and _is_usage_event(data))

    def _note_error(self, event: bytes) -> None:
        try:
            _decode_error(event_data(event) or b"")
        except _UNREADABLE:
            return
        self.saw_error = True


class _UsageEvent(msgspec.Struct):
    usage: dict[str, msgspec.Raw]


_decode_usage_event = msgspec.json.Decoder(_UsageEvent).decode


def _is_usage_event(data: bytes) -> bool:
    try:
        return not _decode_choices(data).choices and _holds_usage(data)
    except _UNREADABLE:
        return False


def _holds_usage(data: bytes) -> bool:
    try:
        return bool(_decode_usage_event(data))
    except _UNREADABLE:
        return False
