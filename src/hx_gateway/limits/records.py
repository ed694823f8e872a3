"""What the journal keeps of a call: that it went out, how it ended, or that it was refused.

A payload is a MessagePack array whose first element says which of the three it is. (1 was a call that asked for a
reservation, which is not written any more: it says nothing of what was spent.) The fields' order is the format on disk:
new ones go to the end and have a default. Money in nano-dollars, prices in pico-dollars a token, times in
microseconds since 1970; a decision is JSON, which nobody looks into on its way. Ids of calls and streams are UUIDs in
their canonical form of 36 characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

# What brought a call's cost about: its end; an estimate, because its worker was lost or its lease ran out; or nothing,
# because it was never sent.
DONE = "done"
UNKNOWN = "unknown"
LAPSED = "lapsed"
VOID = "void"
# These give way to an end that knows.
ESTIMATES = frozenset({UNKNOWN, LAPSED})


class CallFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Who calls what at which price. ``stream_id`` is the member's (:meth:`DurableLedger.join`) that admitted it.

    ``reserved_nano`` is what is reserved by now, ``charges`` are the keys of the windows it is reserved in.
    """

    call_id: str
    stream_id: str
    request_id: str
    tenant_id: str
    key_id: str
    team_id: str | None
    user_id: str | None
    operation: str
    requested_model: str
    model: str
    stream: bool
    admitted_us: int
    reserved_nano: int = 0
    charges: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    price_source: str | None = None
    price_version: str | None = None
    input_pico: int | None = None
    output_pico: int | None = None


class Sent(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """A call is about to go out: from here on it may cost something. Again for each further deployment."""

    facts: CallFacts
    upstream: str | None = None
    provider: str | None = None


class Done(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A call ended, one way or another; nothing of it is reserved any more."""

    facts: CallFacts
    status: int
    ending: str
    cost_nano: int
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    usage_source: str = "none"
    duration_ms: float = 0.0
    attempts: int = 0
    upstream: str | None = None
    provider: str | None = None
    model: str | None = None
    cache: str | None = None
    settled_by: str = DONE
    route: str | None = None
    decision: bytes = b"{}"


class Refused(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """A call was not admitted. What may be reserved for it is free again."""

    call_id: str
    request_id: str
    tenant_id: str
    key_id: str | None
    team_id: str | None
    user_id: str | None
    operation: str | None
    requested_model: str | None
    model: str | None
    status: int
    code: str
    message: str
    at_us: int
    route: str | None = None
    ending: str = "refused"
    decision: bytes = b"{}"


CallRecord: TypeAlias = Sent | Done | Refused

_CANONICAL = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
# MessagePack: the array's head, then the tag as one byte; a text of 36 bytes has its length before it.
_RETIRED, _BEGUN = b"\x01", b"\x02"
_ID_BYTES = 36
_ID_HEAD = bytes((0xD9, _ID_BYTES))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Sent | Done | Refused).decode


def encode(record: CallRecord) -> bytes:
    """Return the payload of a record."""
    return _encode(record)


def decode(payload: bytes) -> CallRecord:
    """Return what :func:`encode` kept. Raises ``ValueError`` for bytes that it did not make."""
    record: CallRecord = _decode(payload)
    # Of nothing else in a record could the database say that it is not what it seems.
    for name in ids_of(record):
        if not _CANONICAL(name):
            raise ValueError(f"{name!r} is no id in canonical form")
    return record


def decode_batch(payloads: Sequence[bytes]) -> list[CallRecord]:
    """Return the records of a batch, but for those that say nothing beside another: of a call that ends in it, its end.

    Most calls are that short, and to decode is most of what a batch costs. Raises ``ValueError`` as :func:`decode`.
    """
    ends, begun = [], []
    for payload in payloads:
        kind = payload[1:2]
        if kind == _BEGUN:
            begun.append(payload)
        elif kind != _RETIRED:
            ends.append(decode(payload))
    ended = {call_id_of(record).encode("ascii") for record in ends}
    return [*(decode(payload) for payload in begun if _first_id(payload) not in ended), *ends]


def _first_id(payload: bytes) -> bytes:
    """Return the bytes of a record's first id, which is its call's; nothing of the kind for what is no record."""
    start = payload.find(_ID_HEAD) + len(_ID_HEAD)
    return payload[start : start + _ID_BYTES]


def call_id_of(record: CallRecord) -> str:
    """Return the call that a record is about."""
    match record:
        case Sent() | Done():
            return record.facts.call_id
        case _:
            return record.call_id


def ids_of(record: CallRecord) -> tuple[str, ...]:
    """Return the ids in a record that are UUIDs."""
    match record:
        case Sent() | Done():
            return record.facts.call_id, record.facts.stream_id
        case Refused():
            return (record.call_id,)
