"""Rows of a model request's record, made when it is drained: a trace, a routing decision, transformations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any
from uuid import UUID

from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind, Policy
from hx_gateway.kit.epochs import POSTGRES_EPOCH_US
from hx_gateway.observability.fields import REPLACEMENT, InvalidEvent
from hx_gateway.observability.request_facts import RequestFacts, decode_facts, level_of
from hx_gateway.observability.rows import Row, Rows
from hx_gateway.observability.tables import ROUTING_DECISIONS, TRACE_EVENTS, TRANSFORMATION_EVENTS, retention_of

REQUESTS = 16
REQUESTS_NAME = "requests"
EVENT_TYPE = "REQUEST"
COMPONENT = "gateway"
STRATEGY = "first_listed"
ALIAS = "alias"
DEFAULT_TENANT = "default"

_SECOND_NS = 1_000_000_000
_ID_BYTES = 16
_SPAN_BYTES = 8
# Wire formats that a translation leads from and to.
_SCHEMAS: Mapping[str, tuple[str, str]] = {"embedding_input_to_prompt": ("openai.embeddings", "ollama.embed")}


def request_kind() -> Kind:
    """Return the journal's kind of request records. They give way to agents' events when the disk is nearly full."""
    return Kind(number=REQUESTS, name=REQUESTS_NAME, policy=Policy.SHED, expand=RequestRows())


class RequestRows:
    """Makes a record's rows, the same ones each time: ids come from the request's id, times from the record.

    Never raises: a record it cannot read gives no rows, a row that breaks a rule is left out.
    """

    def __init__(self) -> None:
        self._now_ns = 0
        self._rows = Rows(retention_of({}), time_ns=lambda: self._now_ns)

    def __call__(self, record: Record) -> list[Record]:
        """Return the records of rows that ``record`` stands for."""
        facts = decode_facts(record.payload)
        if facts is None:
            return []
        began_ns = (record.low + POSTGRES_EPOCH_US) * 1000 - int(facts.duration * _SECOND_NS)
        ids = _Ids(facts.request_id)
        made = []
        for table, make in self._makers(facts):
            self._now_ns = began_ns
            try:
                row = make(facts, ids)
            except InvalidEvent:
                continue
            made.append(Record(record.seq, table, row.flags, 1, row.time_us, row.time_us, row.data))
        return made

    def _makers(self, facts: RequestFacts) -> Iterator[tuple[int, Callable[[RequestFacts, _Ids], Row]]]:
        yield TRACE_EVENTS, self._trace
        if facts.upstream is not None:
            yield ROUTING_DECISIONS, self._decision
        if facts.requested_model != facts.model and facts.model is not None:
            yield TRANSFORMATION_EVENTS, self._alias
        if facts.translation is not None:
            yield TRANSFORMATION_EVENTS, self._translation

    def _trace(self, facts: RequestFacts, ids: _Ids) -> Row:
        return self._rows.trace_event(
            facts.request_id,
            EVENT_TYPE,
            level_of(facts.status, facts.ending),
            span_id=ids.span,
            duration_ms=facts.duration * 1000,
            metadata=_trace_metadata(facts),
            event_id=ids.event(0),
            tenant_id=facts.tenant_id or DEFAULT_TENANT,
        )

    def _decision(self, facts: RequestFacts, ids: _Ids) -> Row:
        self._now_ns += int((facts.routing_seconds or 0) * _SECOND_NS)
        return self._rows.routing_decision(
            f"{facts.operation} {facts.model}",
            _name(facts.upstream),
            1.0,
            facts.alternatives,
            routing_strategy=STRATEGY,
            trace_id=facts.request_id,
            latency_ms=_ms(facts.routing_seconds),
            metadata=_present(requested_model=facts.requested_model, model=facts.model, provider=facts.provider),
            event_id=ids.event(1),
            tenant_id=facts.tenant_id or DEFAULT_TENANT,
        )

    def _alias(self, facts: RequestFacts, ids: _Ids) -> Row:
        return self._rows.transformation_event(
            ALIAS,
            source_agent=COMPONENT,
            trace_id=facts.request_id,
            metadata=_present(field="model", before=facts.requested_model, after=facts.model),
            event_id=ids.event(2),
            tenant_id=facts.tenant_id or DEFAULT_TENANT,
        )

    def _translation(self, facts: RequestFacts, ids: _Ids) -> Row:
        name = facts.translation or ""
        before, after = _SCHEMAS.get(name, (None, None))
        return self._rows.transformation_event(
            name,
            source_agent=COMPONENT,
            target_agent=_name(facts.upstream),
            input_schema=before,
            output_schema=after,
            success=facts.status < 400,
            error=facts.error_code,
            trace_id=facts.request_id,
            metadata=_present(model=facts.model, provider=facts.provider),
            event_id=ids.event(3),
            tenant_id=facts.tenant_id or DEFAULT_TENANT,
        )


class _Ids:
    """Ids of a request's rows: UUIDs of version 8 (RFC 9562) from BLAKE2b, and a span id of 16 hexadecimal digits."""

    def __init__(self, request_id: str) -> None:
        self._digest = blake2b(request_id.encode(), digest_size=64, person=b"hx-request").digest()

    @property
    def span(self) -> str:
        """The id of the request's span."""
        return self._digest[:_SPAN_BYTES].hex()

    def event(self, ordinal: int) -> UUID:
        """Return the id of the request's row ``ordinal``, 0 to 3."""
        octets = bytearray(self._digest[ordinal * _ID_BYTES : (ordinal + 1) * _ID_BYTES])
        octets[6] = octets[6] & 0x0F | 0x80  # the version
        octets[8] = octets[8] & 0x3F | 0x80  # the variant
        return UUID(bytes=bytes(octets))


def _trace_metadata(facts: RequestFacts) -> dict[str, Any]:
    metadata = _present(
        requested_model=facts.requested_model if facts.requested_model != facts.model else None,
        model=facts.model,
        operation=facts.operation,
        upstream=facts.upstream,
        provider=facts.provider,
        error_code=facts.error_code,
        key_id=facts.key_id,
        prompt_tokens=facts.prompt_tokens,
        completion_tokens=facts.completion_tokens,
        tokens_estimated=facts.tokens_estimated or None,
        cache=facts.cache,
        upstream_ms=_ms(facts.upstream_seconds),
        first_byte_ms=_ms(facts.first_byte_seconds),
    )
    return {
        "component": COMPONENT,
        "route": facts.route,
        "method": facts.method,
        "status": facts.status,
        "ending": facts.ending,
        "attempts": facts.attempts,
        "stream": facts.stream,
        "bytes_sent": facts.bytes_sent,
        **metadata,
    }


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _name(value: str | None) -> str:
    """Return a deployment's name as an agent's: a configuration may call it what no row may hold."""
    return (value or "").replace("\0", REPLACEMENT)[:256]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def unix_ns_to_us(unix_ns: int) -> int:
    """Return a wall time as records have it: microseconds since 2000-01-01 UTC."""
    return unix_ns // 1000 - POSTGRES_EPOCH_US
