"""A span as one row of the record."""

from __future__ import annotations

import re
from hashlib import blake2b
from uuid import UUID

from hx_gateway.observability.otlp.aliases import ALIASES
from hx_gateway.observability.otlp.metadata import instant, span_metadata, storable
from hx_gateway.observability.otlp.model import Span

MAX_MESSAGE_CHARS = 1_024

_STATUS_ERROR = 2
# Longer or other ones would fill an index with values that nobody asks for.
_KIND = re.compile(r"[a-z0-9][a-z0-9_.-]{0,58}")
# These have columns of their own.
_COLUMNS = frozenset({"agent", "session", "user", "task", "kind"})


def trace_event(span: Span, *, tenant_id: str, keep_content: bool = False) -> dict[str, object]:
    """Return the keyword arguments of ``write_trace_event`` for ``span``.

    ``event_type`` is ``span.`` and the kind of work in lower case, as the aliases find it (``span.chat``,
    ``span.execute_tool``, OpenInference's ``span.decision``), and ``span`` where there is none or one that is no
    plain name. ``level`` is ERROR for a status of error, else INFO. ``timestamp`` is the start, cut to microseconds.
    ``duration_ms`` is None for a span that has no end or one before its start. Agent, session, user and task are cut
    at 256 characters; the attributes keep them whole.

    ``metadata`` holds the other canonical fields that were found, and ``kind``, ``attributes``, ``resource``,
    ``scope`` and ``events``; ``status_message``, ``trace_state`` and ``links`` (their number) where there are any.
    As JSON it is at most 64 KiB: beyond, the largest texts among the attributes are left out first, then other
    values, then the events, and ``truncated`` is true, as it is where decoding left something out. Without
    ``keep_content`` the attributes that hold prompts, answers or tools' data are left out, and ``content_omitted``
    is their number.
    """
    found = ALIASES.canonical(span.attributes)
    canonical = {name: value for name, value in found.items() if name not in _COLUMNS}
    return {
        "event_id": span_event_id(tenant_id, span.trace_id, span.span_id),
        "timestamp": instant(span.start_ns),
        "tenant_id": tenant_id,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "event_type": _event_type(found.get("kind")),
        "level": "ERROR" if span.status_code == _STATUS_ERROR else "INFO",
        "message": storable(span.name[:MAX_MESSAGE_CHARS]),
        "agent_name": found.get("agent"),
        "task_id": found.get("task"),
        "session_id": found.get("session"),
        "user_id": found.get("user"),
        "duration_ms": (span.end_ns - span.start_ns) / 1e6 if span.end_ns >= span.start_ns else None,
        "metadata": span_metadata(span, canonical, keep_content=keep_content),
    }


def span_event_id(tenant_id: str, trace_id: str, span_id: str) -> UUID:
    """Return the id of a span's row: the same for the same span, so that one sent again is known.

    A UUID of version 8 (RFC 9562) from BLAKE2b-128. The two ids have fixed lengths, so that no other three give the
    same input.
    """
    digest = blake2b(f"{trace_id}{span_id}{tenant_id}".encode(), digest_size=16, person=b"hx-otlp-span").digest()
    octets = bytearray(digest)
    octets[6] = octets[6] & 0x0F | 0x80  # the version
    octets[8] = octets[8] & 0x3F | 0x80  # the variant
    return UUID(bytes=bytes(octets))


def _event_type(kind: str | int | float | None) -> str:
    return f"span.{kind}" if isinstance(kind, str) and _KIND.fullmatch(kind) else "span"
